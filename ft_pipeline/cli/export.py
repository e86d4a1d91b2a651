"""`ft export`: use a model outside the project."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ft_pipeline.cli import display
from ft_pipeline.cli.common import JsonOption, ProjectOption, open_project, print_result, stderr, stdout
from ft_pipeline.release.disclosure.facts import export_facts
from ft_pipeline.release.disclosure.folder import SIGNATURE, disclose
from ft_pipeline.release.export.huggingface import ExportPlan, plan_export, write_export
from ft_pipeline.release.intact import require_intact
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.signing import find_key


def export(
    name: Annotated[str, typer.Argument(help="`champion`, an experiment, or a row of `ft compare`.")],
    directory: Annotated[Path, typer.Argument(help="Folder to write to. It must be new or empty.")],
    merged: Annotated[bool, typer.Option("--merged", help="Export the whole model instead of the adapter.")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export a model to a folder as a PEFT adapter or a Hugging Face model, with tokenizer, chat template, generation
    config and model card.

    Example: ft export champion ../support-model --merged
    """
    opened_project = open_project(project)
    store = ArtifactStore(opened_project.store)
    model = find_model(store, name)
    require_intact(store, model)
    plan = plan_export(store, model, directory, merged=merged)
    key = find_key(store.root)
    facts = export_facts(store, plan.model, opened_project.settings)
    with Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=28), DownloadColumn(), console=stderr, transient=True
    ) as bar:
        task = bar.add_task("writing", total=plan.bytes)
        write_export(plan, lambda folder: disclose(folder, facts, key), lambda count: bar.advance(task, count))
    print_result(_document(plan), as_json, lambda document: _show_export(document, plan))


def _document(plan: ExportPlan) -> dict[str, Any]:
    model = plan.model
    return {
        "name": model.row,
        "kind": model.kind,
        "path": str(plan.target),
        "files": sorted(path.relative_to(plan.target).as_posix() for path in plan.target.rglob("*") if path.is_file()),
        "bytes": plan.bytes,
        "technique": model.serving["technique"],
        "system_prompt": model.serving["system_prompt"],
        "base_model": plan.base_model,
        "fingerprint": model.released_fingerprint,
        "signed": (plan.target / SIGNATURE).is_file(),
    }


def _show_export(document: dict[str, Any], plan: ExportPlan) -> None:
    description = "a PEFT adapter" if plan.model.kind == "adapter" else "a Hugging Face model"
    stdout.print(
        f"Exported {display.plain(document['name'])} as {description} to {display.plain(document['path'])} "
        f"({len(document['files'])} files, {document['bytes'] / 1e6:.1f} MB)",
        soft_wrap=True,
    )
    if not document["signed"]:
        stdout.print(
            "It is not signed, because the project has no key. Run `ft keys new --reason TEXT`, and export again."
        )
    if document["system_prompt"]:
        stdout.print("It was scored with the system prompt in README.md. Send that prompt as the first message.")
