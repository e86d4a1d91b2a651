"""`ft report`: the comparison as one HTML file."""

import shutil
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ft_pipeline.cli import display
from ft_pipeline.cli.common import JsonOption, ProjectOption, open_project, out
from ft_pipeline.cli.common import report as tell
from ft_pipeline.errors import UserError
from ft_pipeline.release.report.report import NAME
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.atomic_files import translate_write_errors


def report(
    file: Annotated[Path | None, typer.Argument(help="Where to copy it to, e.g. comparison.html.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say where the report of the comparison is: one HTML file with what to do, the scores, and every answer.

    Example: ft report ../comparison.html --open
    """
    store = ArtifactStore(open_project(project).store)
    found = _present(store)
    path = found.path / NAME
    if file is not None:
        if file.exists():
            raise UserError(f"{file} exists already; name another file, or remove it")
        with translate_write_errors():
            file.parent.mkdir(parents=True, exist_ok=True)
            path = Path(shutil.copyfile(path, file))
    document = {"path": str(path.resolve()), "bytes": path.stat().st_size, "comparison": found.inputs["comparison"][1]}
    tell(document, as_json, lambda told: out.print(display.plain(told["path"]), soft_wrap=True))
    if open_it:
        webbrowser.open(path.resolve().as_uri())


def _present(store: ArtifactStore) -> Artifact:
    """The report of the present comparison and champion. UserError where there is none."""
    current = AssetPointers(store.root)
    pointer = current.read("report")
    found = store.open(pointer.kind, pointer.fingerprint) if pointer else None
    if found is None:
        raise UserError("there is no report yet; run: ft run")
    for asset in found.inputs:
        newer = current.read(asset)
        if newer is not None and newer.fingerprint != found.inputs[asset][1]:
            raise UserError(f"the report was made before the present {asset}; bring it up to date: ft run")
    return found
