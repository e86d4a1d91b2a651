"""`ft audit`: what a model or a score was made from, and whether the record still holds."""

from typing import Annotated

import typer

from ft_pipeline.cli_common import FAILED, JsonOption, ProjectOption, open_project, out, report


def audit(
    name: Annotated[
        str, typer.Argument(help="champion, champion@N, an experiment, a row of `ft compare`, an asset, a fingerprint.")
    ] = "champion",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk from a model or a score back to the raw files it came from.

    Example: ft audit champion
    """
    from ft_pipeline.audit.chain import walk
    from ft_pipeline.audit.document import Verdict, audit_document
    from ft_pipeline.audit.library import Library
    from ft_pipeline.audit.subject import find_subject
    from ft_pipeline.terminal_audit import show_audit

    library = Library(open_project(project).store)
    chain = walk(library, find_subject(library, name))
    verdict = Verdict()
    document = audit_document(chain, verdict)
    report(document, as_json, lambda _: show_audit(out, chain, verdict))
    if document["problems"]:
        raise typer.Exit(FAILED)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(audit)
