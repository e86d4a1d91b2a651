"""`ft audit`: what a model or a score was made from, and whether the record still holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ft_pipeline.cli_common import FAILED, JsonOption, ProjectOption, errors, open_project, out, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from ft_pipeline.audit.chain import Chain
    from ft_pipeline.audit.document import Verdict
    from ft_pipeline.project import Project


def audit(
    name: Annotated[
        str, typer.Argument(help="champion, champion@N, an experiment, a row of `ft compare`, an asset, a fingerprint.")
    ] = "champion",
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash the whole store again, and hold it against Dagster's event log.")
    ] = False,
    chain_only: Annotated[
        bool, typer.Option("--chain-only", help="With --verify: only what NAME was made from, not the whole store.")
    ] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk from a model or a score back to the raw files it came from.

    Example: ft audit champion --verify
    """
    from ft_pipeline.audit.chain import walk
    from ft_pipeline.audit.document import Verdict, audit_document
    from ft_pipeline.audit.library import Library
    from ft_pipeline.audit.subject import find_subject
    from ft_pipeline.terminal_audit import show_audit

    opened = open_project(project)
    library = Library(opened.store)
    chain = walk(library, find_subject(library, name))
    verdict = _verify(opened, chain, chain_only) if verify else Verdict()
    document = audit_document(chain, verdict)
    report(document, as_json, lambda _: show_audit(out, chain, verdict))
    if document["problems"]:
        raise typer.Exit(FAILED)


def _verify(project: "Project", chain: "Chain", chain_only: bool) -> "Verdict":
    """The chain and (unless `chain_only`) the whole store, hashed; then Dagster's record, if there is one."""
    from ft_pipeline.audit.verify import verify
    from ft_pipeline.execution.cross_check import cross_check

    library = chain.library
    with _hashing() as progress:
        verdict = verify(library, chain.nodes if chain_only else None, progress)
    events, found, notes = cross_check(project, library)
    return replace(
        verdict,
        problems=(*verdict.problems, *found),
        notes=notes,
        counted={**verdict.counted, "events_of_Dagster": events},
    )


@contextmanager
def _hashing() -> "Iterator[Callable[[int, int], None]]":
    """A bar of the bytes read."""
    columns = (TextColumn("hashing"), BarColumn(bar_width=28), DownloadColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda read, total: bar.update(task, completed=read, total=total)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(audit)
