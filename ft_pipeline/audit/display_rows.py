"""Output of the questions of `ft audit` in a terminal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from ft_pipeline.audit.chain import Chain
from ft_pipeline.audit.rows import LeftOut, Match, TrainingRow
from ft_pipeline.cli.display_tables import print_rows
from ft_pipeline.cli.display_text import plain, say, truncate
from ft_pipeline.lineage.artifact_index import SHOWN_DIGITS
from ft_pipeline.lineage.row_usage import RowUsage

ROWS_SHOWN = 20
LEFT_OUT_SHOWN = 5 * ROWS_SHOWN


def show_training_rows(console: Console, chain: Chain, rows: Sequence[TrainingRow]) -> None:
    """Print counts by split, source and file, then the first rows."""
    counts = Counter(
        (row.split, row.source, f"{row.table}/{row.file}", (row.raw_sha256 or "")[:SHOWN_DIGITS]) for row in rows
    )
    say(console, f"{len(rows)} training and validation rows of {plain(chain.subject.name)}")
    columns = ["split", "source", "file", "SHA-256", "rows"]
    print_rows(console, columns, [[*key, count] for key, count in counts.items()])
    first = [[row.split, row.source, row.origin, row.copies, row.id[:SHOWN_DIGITS]] for row in rows[:ROWS_SHOWN]]
    print_rows(console, ["split", "source", "row", "copies", "id"], first)
    _show_rest(console, len(rows), ROWS_SHOWN)


def show_left_out(console: Console, chain: Chain, rows: Sequence[LeftOut]) -> None:
    """Print the rows that were read and not used."""
    say(console, f"{len(rows)} rows were read for {plain(chain.subject.name)} but not used")
    shown = [[f"{row.table}/{row.file}:{row.row}", row.code, row.by, row.message] for row in rows[:LEFT_OUT_SHOWN]]
    print_rows(console, ["row", "code", "set aside by", "why"], shown)
    _show_rest(console, len(rows), LEFT_OUT_SHOWN)


def show_matches(console: Console, chain: Chain, sentence: str, matches: Sequence[Match]) -> None:
    """Print whether a sentence was trained on, and the most similar rows."""
    trained = [match for match in matches if match.use == "train"]
    exact = [match for match in trained if match.how != "near"]
    answer = "yes" if exact else "no, but a similar text was" if trained else "no"
    say(console, f"Was “{plain(sentence)}” trained on? [bold]{answer}[/]")
    shown = [[match.how, match.share, match.use, match.origin, truncate(match.text)] for match in matches[:ROWS_SHOWN]]
    if shown:
        print_rows(console, ["how", "share", "use", "row", "text"], shown)
    _show_rest(console, len(matches), ROWS_SHOWN)
    if any(node.redacted for node in chain.nodes):
        say(console, "[yellow]Some rows of this chain have been erased. Their text cannot be searched.[/]")


def show_usage(console: Console, usage: RowUsage) -> None:
    """Print the models that used a row, and how."""
    say(console, f"{plain(usage.row)}: {len(usage.ids)} version(s) of this row, used by {len(usage.uses)} artifact(s)")
    rows = [
        [
            use.key,
            use.fingerprint[:SHOWN_DIGITS],
            use.created[:19].replace("T", " "),
            use.how,
            "yes" if use.present else "",
            ", ".join(map(str, use.champion_records)),
        ]
        for use in usage.uses
    ]
    if not rows:
        say(console, "No model was trained on it, selected its checkpoint with it, or was scored on it.")
        return
    print_rows(console, ["artifact", "fingerprint", "created", "how", "present", "champion records"], rows)
    say(console, f"To be retrained without it: {plain(', '.join(usage.retrain) or 'nothing')}")
    if usage.champion:
        say(console, "[yellow]The current champion is one of these models.[/]")


def show_changes(console: Console, changes: Mapping[str, Any]) -> None:
    """Print the changes from the earlier model to the later one."""
    data = changes["data"]
    say(console, f"From {plain(changes['before'])} to {plain(changes['now'])}")
    say(console, f"[bold]data[/]: {data['rows_before']} → {data['rows_now']} training and validation rows")
    for change in ("files_added", "files_removed", "files_changed", "added", "removed", "other_use"):
        items = data[change]
        more = f" and {len(items) - ROWS_SHOWN} more" if len(items) > ROWS_SHOWN else ""
        if items:
            shown = ", ".join(items[:ROWS_SHOWN])
            say(console, f"  {change.replace('_', ' ')} ({len(items)}): {plain(shown)}{more}")
    for code, counts in data["set_aside"].items():
        say(console, f"  set aside as {plain(code)}: {counts['before']} → {counts['now']}")
    settings = [(f"{kind}.{key}", *pair) for kind, keys in changes["settings"].items() for key, pair in keys.items()]
    _show_pairs(console, "settings", settings)
    _show_pairs(console, "code", [(key, *pair) for key, pair in changes["code"].items()])
    _show_scores(console, changes["scores"])


def _show_pairs(console: Console, title: str, pairs: Sequence[tuple[Any, ...]]) -> None:
    """Print (key, before, now) of each change."""
    say(console, f"[bold]{title}[/]" + ("" if pairs else ": the same"))
    for key, before, now in pairs:
        say(console, f"  {plain(key)}: {plain(truncate(str(before)))} → {plain(truncate(str(now)))}")


def _show_scores(console: Console, scores: Mapping[str, Any]) -> None:
    before, now = scores["before"], scores["now"]
    same = before["evaluation"] == now["evaluation"]
    say(console, "[bold]scores[/]" + ("" if same else " (from different evaluations: not comparable)"))
    for metric in dict.fromkeys([*before["scores"], *now["scores"]]):
        values = [model["scores"].get(metric) for model in (before, now)]
        say(console, f"  {plain(metric)}: {' → '.join(_score(value) for value in values)}")


def _score(score: Mapping[str, float] | None) -> str:
    if score is None:
        return "not measured"
    interval = f" ({score['low']:.3f} to {score['high']:.3f})" if "low" in score else ""
    return f"{score['value']:.3f}{interval}"


def _show_rest(console: Console, count: int, shown: int) -> None:
    if count > shown:
        say(console, f"and {count - shown} more (--json lists all)")
