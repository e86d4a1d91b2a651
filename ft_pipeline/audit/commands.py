"""`ft audit`: what a model or a score was made from, and whether the records are intact."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import FAILED, REFUSED, stderr
from ft_pipeline.errors import UserError

if TYPE_CHECKING:
    from ft_pipeline.audit.audit_report import VerificationResult
    from ft_pipeline.audit.chain import Chain
    from ft_pipeline.project import Project

NAME_HELP = (
    "What to audit: champion (the default), champion@N, an experiment, a row of `ft compare`, an asset "
    "(ASSET@EXPERIMENT) or a fingerprint."
)


@command
def audit(
    project: UnopenedProject,
    name: Annotated[str | None, typer.Argument(help=NAME_HELP)] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash the whole store again, and compare it with Dagster's event log.")
    ] = False,
    chain_only: Annotated[
        bool, typer.Option("--chain-only", help="With --verify: check only what NAME was made from.")
    ] = False,
    rows: Annotated[bool, typer.Option("--rows", help="List the rows that trained it, each with its origin.")] = False,
    left_out: Annotated[
        bool, typer.Option("--left-out", help="List the rows that were read but not used, each with the reason.")
    ] = False,
    sentence: Annotated[
        str | None, typer.Option("--sentence", help="Show whether it was trained on this text or a similar one.")
    ] = None,
    row: Annotated[
        str | None,
        typer.Option("--row", help="List all models in the store that used FORMAT/FILE:ROW (or a row's id)."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="With --verify: the public key (PEM) that must have signed the store."),
    ] = None,
    anchor: Annotated[
        str | None,
        typer.Option("--anchor", help="With --verify: also compare with the copy that `ft anchor` made."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Show what changed since another NAME, or since the `previous` champion."),
    ] = None,
) -> Answer:
    """Show everything that a model or a score was made from, back to the raw files, or answer one question about it.

    Example: ft audit champion --verify
    """
    from ft_pipeline.audit.chain import without_evidence

    if sum(map(bool, (verify, rows, left_out, sentence, row, against))) > 1:
        raise UserError(
            "These options cannot be combined. Use one of --verify, --rows, --left-out, --sentence, --row, --against."
        )
    if (key or anchor) and not verify:
        raise UserError("--key and --anchor have no effect without --verify. Add --verify.")
    opened = project.open(despite_secrets=True)
    if row:
        return _answer_row(opened, row)
    chain, missing = _walk_chain(opened, name, or_whole_store=verify)
    if rows:
        return _answer_rows(without_evidence(chain))
    if left_out:
        return _answer_left_out(without_evidence(chain))
    if sentence:
        return _answer_sentence(without_evidence(chain), sentence)
    if against:
        return _answer_against(chain, against)
    request = _VerifyRequest(verify, chain_only and bool(chain.subject.roots), _read_key(key), anchor, missing)
    return _answer_chain(opened, chain, request)


@dataclass(frozen=True)
class _VerifyRequest:
    """The options of --verify."""

    wanted: bool
    chain_only: bool
    public_pem: bytes | None
    anchor: str | None
    missing: str | None
    """Why the subject has no chain; None if it has one, or if none was named and nothing was released."""


def _read_key(path: Path | None) -> bytes | None:
    """Return the content of the public key's file. UserError if it is not one."""
    from ft_pipeline.store.signing import key_id_of

    if path is None:
        return None
    if not path.is_file():
        raise UserError(f"There is no file {path}. Name the public key of the store: signing_key.pub")
    public_pem = path.read_bytes()
    key_id_of(public_pem)
    return public_pem


def _walk_chain(project: "Project", name: str | None, *, or_whole_store: bool) -> tuple["Chain", str | None]:
    """Return the chain of the subject `name` (None: of the champion), and None.

    or_whole_store: if the subject cannot be found, return an empty chain and the reason. The store may be damaged.
    """
    from ft_pipeline.audit.chain import walk
    from ft_pipeline.audit.subject import CHAMPION, NothingReleased, find_subject, whole_store
    from ft_pipeline.lineage.artifact_index import ArtifactIndex
    from ft_pipeline.store.journal_lines import FILE_NAME

    index = ArtifactIndex(project.store)
    try:
        return walk(index, find_subject(index, name or CHAMPION)), None
    except UserError as error:
        if not or_whole_store or not (index.kinds() or (project.store / FILE_NAME).is_file()):
            raise
        chain = walk(index, whole_store(name or CHAMPION))
        return chain, None if name is None and isinstance(error, NothingReleased) else str(error)


def _answer_chain(project: "Project", chain: "Chain", request: _VerifyRequest) -> Answer:
    from ft_pipeline.audit.audit_report import VerificationResult, audit_document
    from ft_pipeline.audit.display import show_audit

    result = _verify(project, chain, request) if request.wanted else VerificationResult()
    document = audit_document(chain, result)
    code = FAILED if document["problems"] else REFUSED if request.missing else 0
    error = request.missing if code == REFUSED else None
    return Answer(document, lambda console, _: show_audit(console, chain, result), code, error)


def _verify(project: "Project", chain: "Chain", request: _VerifyRequest) -> "VerificationResult":
    """Hash the whole store (or only the chain), then compare it with Dagster's event log and the anchor, if any."""
    from ft_pipeline.audit.event_log_check import compare_with_event_log
    from ft_pipeline.audit.verify import verify

    index = chain.index
    with _hashing_progress() as progress:
        result = verify(index, chain.nodes if request.chain_only else None, progress, request.public_pem)
    events, findings, notes = compare_with_event_log(project, index, result.signed_removals)
    if request.anchor:
        from ft_pipeline.audit.anchor import compare_with_anchor

        dropped, note = compare_with_anchor(index.root, request.anchor)
        findings, notes = [*findings, *dropped], [*notes, note]
    return replace(
        result,
        problems=(*result.problems, *findings),
        notes=(*result.notes, *notes),
        counted={**result.counted, "events_of_Dagster": events},
    )


@contextmanager
def _hashing_progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, and yield a function that updates it: (bytes read so far, bytes in all)."""
    columns = (TextColumn("hashing"), BarColumn(bar_width=28), DownloadColumn())
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda read, total: bar.update(task, completed=read, total=total)


def _answer_rows(chain: "Chain") -> Answer:
    from ft_pipeline.audit.display_rows import show_training_rows
    from ft_pipeline.audit.rows import training_rows

    rows = training_rows(chain)
    document = {"subject": chain.subject.name, "rows": [row.to_json() for row in rows]}
    return Answer(document, lambda console, _: show_training_rows(console, chain, rows))


def _answer_left_out(chain: "Chain") -> Answer:
    from ft_pipeline.audit.display_rows import show_left_out
    from ft_pipeline.audit.rows import left_out_rows

    rows = left_out_rows(chain)
    document = {"subject": chain.subject.name, "rows": [row.to_json() for row in rows]}
    return Answer(document, lambda console, _: show_left_out(console, chain, rows))


def _answer_sentence(chain: "Chain", sentence: str) -> Answer:
    from ft_pipeline.audit.display_rows import show_matches
    from ft_pipeline.audit.rows import find_sentence

    matches = find_sentence(chain, sentence)
    document: dict[str, Any] = {
        "subject": chain.subject.name,
        "sentence": sentence,
        "trained": any(match.use == "train" and match.how != "near" for match in matches),
        "trained_near": any(match.use == "train" for match in matches),
        "matches": [match.to_json() for match in matches],
        "forgotten": any(node.redacted for node in chain.nodes),
    }
    return Answer(document, lambda console, _: show_matches(console, chain, sentence, matches))


def _answer_row(project: "Project", row: str) -> Answer:
    from ft_pipeline.audit.display_rows import show_usage
    from ft_pipeline.lineage.artifact_index import ArtifactIndex
    from ft_pipeline.lineage.row_usage import models_that_used_row

    usage = models_that_used_row(ArtifactIndex(project.store), row.removeprefix("data/raw/"))
    return Answer(usage.to_json(), lambda console, _: show_usage(console, usage))


def _answer_against(chain: "Chain", against: str) -> Answer:
    from ft_pipeline.audit.chain import walk
    from ft_pipeline.audit.changes import PREVIOUS, describe_changes, previous_champion
    from ft_pipeline.audit.display_rows import show_changes
    from ft_pipeline.audit.subject import find_subject

    index, subject = chain.index, chain.subject
    earlier = previous_champion(index, subject) if against == PREVIOUS else find_subject(index, against)
    return Answer(describe_changes(chain, walk(index, earlier)), show_changes)
