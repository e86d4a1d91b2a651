"""`ft report`: the comparison as one HTML file."""

import shutil
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ft_pipeline.cli.command import Answer, command, print_answer
from ft_pipeline.cli.display_text import plain, say_line
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release.report.report import FILE_NAME, current_report
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.atomic_files import translate_write_errors


@command
def report(
    project: Project,
    as_json: bool,
    file: Annotated[Path | None, typer.Argument(help="Copy the report to this file, e.g. comparison.html.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
) -> None:
    """Print the path of the report: one HTML file with the recommendation, the scores and every answer.

    Example: ft report ../comparison.html --open
    """
    store = ArtifactStore(project.store)
    artifact = current_report(store)
    path = artifact.path / FILE_NAME
    if file is not None:
        if file.exists():
            raise UserError(f"{file} already exists. Choose another file, or remove it.")
        with translate_write_errors():
            file.parent.mkdir(parents=True, exist_ok=True)
            path = Path(shutil.copyfile(path, file))
    comparison = artifact.inputs["comparison"][1]
    document = {"path": str(path.resolve()), "bytes": path.stat().st_size, "comparison": comparison}
    print_answer(Answer(document, lambda console, shown: say_line(console, plain(shown["path"]))), as_json)
    if open_it:
        webbrowser.open(path.resolve().as_uri())
