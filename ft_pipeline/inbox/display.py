"""Output of `ft inbox` in a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.display_tables import new_table, print_texts
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.inbox.decide import Decided
from ft_pipeline.inbox.proposals import Inbox, Proposal

SHOWN_CHARACTERS = 60
"""Characters of a text in the list."""
SHOWN_BROKEN = 5


def show_inbox(console: Console, found: Inbox, log: Path, *, rated_up: bool, rated_down: bool) -> None:
    """Print the open proposals, and what else is in the log."""
    listed = found.listed(rated_up=rated_up, rated_down=rated_down)
    if not found.traffic.lines:
        say(console, f"The log {plain(str(log))} is empty. Run `ft serve --log {plain(str(log))}`.")
        return
    if listed:
        print_texts(console, _table(listed))
    else:
        say(console, "No proposal is open. Corrections arrive through POST /v1/feedback of `ft serve --log`.")
    for line in _counts(found, rated_up=rated_up, rated_down=rated_down):
        say(console, line)


def _table(listed: Sequence[Proposal]) -> Table:
    titles = ("time (UTC)", "session, workload", "question", "answer", "correction", "by", "checks")
    table = new_table("id", *titles, one_line={"id"})
    for proposal in listed:
        place = ", ".join(name for name in (proposal.session, proposal.workload) if name)
        correction = f"({proposal.kind})" if proposal.correction is None else _cut(proposal.correction)
        texts = (place, _cut(proposal.question), _cut(proposal.answer), correction, proposal.user or "")
        style = "green" if proposal.is_acceptable else "red"
        checks = proposal.checks.partition(": ")[0]  # the reason code; `show` prints the whole sentence
        table.add_row(plain(proposal.id), proposal.when, *map(plain, texts), f"[{style}]{plain(checks)}[/]")
    return table


def _counts(found: Inbox, *, rated_up: bool, rated_down: bool) -> list[str]:
    kinds = [proposal.kind for proposal in found.proposals]
    hidden_up = 0 if rated_up else kinds.count("rated up")
    hidden_down = 0 if rated_down else kinds.count("rated down")
    broken = found.traffic.broken
    later = ", ".join(found.rated_down_later)
    lines = [
        f"Rated up: {hidden_up} (list them with --rated-up)." if hidden_up else "",
        f"Rated down and not corrected: {hidden_down} (list them with --rated-down)." if hidden_down else "",
        f"Accepted, and rated down since then: {plain(later)}. Erase what is wrong with `ft erase`." if later else "",
        f"Calls with feedback that are not in the log: {found.without_call}." if found.without_call else "",
        f"Lines that cannot be read: {len(broken)}." if broken else "",
        *(f"  {plain(line.describe())}" for line in broken[:SHOWN_BROKEN]),
    ]
    return [line for line in lines if line]


def show_proposal(console: Console, proposal: Proposal, turns: Sequence[tuple[str, str]]) -> None:
    """Print the whole conversation of a proposal, the correction last."""
    for role, text in turns:
        say(console, f"[bold]{plain(role)}[/]: {plain(text)}")
    if proposal.correction is not None:
        say(console, f"[bold]correction[/]: {plain(proposal.correction)}")
    by = f" by {plain(proposal.user)}" if proposal.user else ""
    say(console, f"{proposal.kind}, {proposal.when}{by}. Checks: {plain(proposal.checks)}")
    if proposal.comment:
        say(console, f"Comment: {plain(proposal.comment)}")


def show_decided(console: Console, decided: Decided, first_run: bool) -> None:
    """Print what was decided, and what follows. first_run: whether the automation does not know the folder yet."""
    if decided.accepted:
        files = ", ".join(f"data/raw/traces/{name}" for name in decided.files)
        say(console, f"Accepted {len(decided.accepted)}. Added to {files}.")
        follow = (
            "Run `ft run` to build the tables"
            if first_run
            else "The tables follow while `ft ui` runs, or with `ft run`"
        )
        say(console, f"{follow}.")
    if decided.rejected:
        say(console, f"Rejected {len(decided.rejected)}.")


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"
