"""`ft export`: a model as a folder of its own."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ft_pipeline import terminal
from ft_pipeline.cli_common import JsonOption, ProjectOption, errors, open_project, out, report
from ft_pipeline.project import Project
from ft_pipeline.release.export import Plan, plan_export, write_export
from ft_pipeline.release.facts import card_facts
from ft_pipeline.release.model_card import render_card
from ft_pipeline.release.named import comparison_of, find_model
from ft_pipeline.store.artifacts import ArtifactStore


def export(
    name: Annotated[str, typer.Argument(help="`champion`, an experiment, or a row of `ft compare`.")],
    directory: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    merged: Annotated[bool, typer.Option("--merged", help="The whole model, not the adapter.")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model to a folder: a PEFT adapter, or a plain Hugging Face model; with tokenizer, chat template,
    generation config and model card.

    Example: ft export champion ../support-model --merged
    """
    opened = open_project(project)
    store = ArtifactStore(opened.store)
    plan = plan_export(store, find_model(store, name), directory, merged=merged)
    with Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=28), DownloadColumn(), console=errors, transient=True
    ) as bar:
        task = bar.add_task("writing", total=plan.bytes)
        write_export(plan, _card(opened, store, plan), lambda count: bar.advance(task, count))
    report(_document(plan), as_json, lambda found: _show(found, plan))


def _card(project: Project, store: ArtifactStore, plan: Plan) -> str:
    settings = project.settings
    facts = card_facts(
        store, plan.model, comparison_of(store), task=settings.task, teacher_terms=settings.teacher.terms
    )
    return render_card(facts)


def _document(plan: Plan) -> dict[str, Any]:
    model = plan.model
    return {
        "name": model.row,
        "kind": model.kind,
        "path": str(plan.target),
        "files": sorted(path.relative_to(plan.target).as_posix() for path in plan.target.rglob("*") if path.is_file()),
        "bytes": plan.bytes,
        "technique": model.served["technique"],
        "system_prompt": model.served["system_prompt"],
        "base_model": plan.base.get("base_model_name_or_path"),
        "fingerprint": model.released,
    }


def _show(document: dict[str, Any], plan: Plan) -> None:
    what = "a PEFT adapter" if plan.model.kind == "adapter" else "a Hugging Face model"
    out.print(
        f"{terminal.plain(document['name'])} as {what}: {terminal.plain(document['path'])} "
        f"({len(document['files'])} files, {document['bytes'] / 1e6:.1f} MB)",
        soft_wrap=True,
    )
    if document["system_prompt"]:
        out.print("It was scored with the system prompt that README.md shows; send it as the first message.")
