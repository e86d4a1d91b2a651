"""`ft export`: use a model outside the project."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import experiment_names, stderr
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.features import choice, names_in
from ft_pipeline.project import Project
from ft_pipeline.release.card.usage import what_weights_lack
from ft_pipeline.release.disclosure.facts import export_facts
from ft_pipeline.release.disclosure.folder import SIGNATURE, disclose
from ft_pipeline.release.export.classifier import export_classifier
from ft_pipeline.release.export.huggingface import ExportPlan, plan_export, write_export
from ft_pipeline.release.export.prompt_files import require_prompt_texts, write_prompt_files
from ft_pipeline.release.export.target_folder import ReportBytes
from ft_pipeline.release.intact import require_intact
from ft_pipeline.release.model_lookup import ModelReference, find_model
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.signing import find_key

ExportFormat = StrEnum(  # type: ignore[misc]
    "ExportFormat", {name.upper(): name for name in ("huggingface", *names_in("export"))}
)
"""What a model is exported as: those besides the first one are of features."""
HUGGINGFACE = ExportFormat("huggingface")


@command
def export(
    project: UnopenedProject,
    name: Annotated[
        str,
        typer.Argument(
            help="`champion`, an experiment, or a row of `ft compare`.",
            autocompletion=experiment_names,
        ),
    ],
    directory: Annotated[Path, typer.Argument(help="Folder to write to. It must be new or empty.")],
    merged: Annotated[bool, typer.Option("--merged", help="Export the whole model instead of the adapter.")] = False,
    export_format: Annotated[
        ExportFormat,
        typer.Option(
            "--format", help="gguf: files for llama.cpp, each scored before it is exported. evidence: of the decision."
        ),
    ] = HUGGINGFACE,
    quantize: Annotated[
        str | None,
        typer.Option("--quantize", help="Types of GGUF files: q8_0,q4_k_m,… (default: the YAML's, or q8_0)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Export a GGUF file that fails its gate.")] = False,
    with_texts: Annotated[
        bool,
        typer.Option(
            "--with-texts", help="Add texts of your data: the passages and examples of its prompt, or the answers."
        ),
    ] = False,
) -> Answer:
    """Export a model to a folder as a PEFT adapter, a Hugging Face model or GGUF files, with tokenizer, chat template,
    generation config and model card.

    Example: ft export champion ../support-model --merged
    """
    write = choice("export", export_format)
    if write is None and (quantize is not None or force):
        raise UserError(f"{'--force' if quantize is None else '--quantize'} is for GGUF files. Add --format gguf.")
    opened = project.open()
    store = ArtifactStore(opened.store)
    model = find_model(store, name)
    require_intact(store, model)
    if write is not None:
        return write(opened, store, model, directory, quantize=quantize, force=force, with_texts=with_texts)
    if with_texts:
        require_prompt_texts(model)
    if model.kind == "classifier":
        return _export_classifier(opened, store, model, directory)
    plan = plan_export(store, model, directory, merged=merged)
    key = find_key(store.root)
    facts = export_facts(store, plan.model, opened.settings)

    def describe(folder: Path) -> None:
        write_prompt_files(store, plan.model, folder, with_texts=with_texts)
        disclose(folder, facts, key)

    show_writing(plan.bytes, lambda report_bytes: write_export(plan, describe, report_bytes))
    return Answer(_document_of_plan(plan), partial(_show_plan, plan=plan))


def _export_classifier(project: Project, store: ArtifactStore, model: ModelReference, directory: Path) -> Answer:
    path = export_classifier(store, model, directory, project.settings)
    document = _document(model, path, sum(file.stat().st_size for file in path.iterdir()))
    return Answer(document, partial(_show_export, description="a classifier"))


def show_writing(total: int, write: Callable[[ReportBytes], None]) -> None:
    """Call `write` with a function that moves a progress bar. total: bytes to write."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=28), DownloadColumn(), console=stderr, transient=True
    ) as bar:
        task = bar.add_task("writing", total=total)
        write(lambda count: bar.advance(task, count))


def _document(model: ModelReference, folder: Path, size: int) -> dict[str, Any]:
    """Return what every export says of its folder. size: bytes."""
    return {
        "name": model.row,
        "kind": model.kind,
        "path": str(folder),
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
        "bytes": size,
        "fingerprint": model.released_fingerprint,
        "signed": (folder / SIGNATURE).is_file(),
    }


def _document_of_plan(plan: ExportPlan) -> dict[str, Any]:
    prompted = {key: plan.model.serving[key] for key in ("technique", "system_prompt")}
    return {**_document(plan.model, plan.target, plan.bytes), **prompted, "base_model": plan.base_model}


def _show_export(console: Console, document: dict[str, Any], description: str) -> None:
    size = f"({len(document['files'])} files, {document['bytes'] / 1e6:.1f} MB)"
    say(console, f"Exported {plain(document['name'])} as {description} to {plain(document['path'])} {size}")
    show_signature(console, document["signed"])


def _show_plan(console: Console, document: dict[str, Any], plan: ExportPlan) -> None:
    _show_export(console, document, "a PEFT adapter" if plan.model.kind == "adapter" else "a Hugging Face model")
    show_prompt(console, plan.model)


def show_prompt(console: Console, model: ModelReference) -> None:
    """Say what the exported files do not do by themselves: send the prompt with which the model was scored."""
    if model.serving["system_prompt"]:
        say(console, "It was scored with the system prompt in README.md. Send that prompt as the first message.")
    if what_weights_lack(model.serving):
        say(console, "Its examples or passages are not in the weights. README.md says what your application must add.")


def show_signature(console: Console, signed: bool) -> None:
    """Say if an export is not signed."""
    if not signed:
        say(
            console,
            "It is not signed, because the project has no key. Run `ft keys new --reason TEXT`, and export again.",
        )
