"""`ft export` and `ft serve`: use a model outside the project."""

import signal
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ft_pipeline.cli import display
from ft_pipeline.cli.common import FAILED, JsonOption, ProjectOption, open_project, print_result, stderr, stdout
from ft_pipeline.errors import UserError
from ft_pipeline.models.compute_setting import requested_dtype
from ft_pipeline.models.serving_engines import HOST, OFFLINE_ENVIRONMENT, find_engine
from ft_pipeline.project import Project
from ft_pipeline.release.card.model_card import render_card
from ft_pipeline.release.card.model_lineage import card_facts
from ft_pipeline.release.export.huggingface import ExportPlan, plan_export, write_export
from ft_pipeline.release.export.served_folder import require_servable, write_served_folder
from ft_pipeline.release.latency import measure, prompts_of_test_rows
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact

EngineChoice = Literal["auto", "vllm", "transformers"]


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
    plan = plan_export(store, find_model(store, name), directory, merged=merged)
    with Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=28), DownloadColumn(), console=stderr, transient=True
    ) as bar:
        task = bar.add_task("writing", total=plan.bytes)
        write_export(plan, _render_card(opened_project, store, plan), lambda count: bar.advance(task, count))
    print_result(_document(plan), as_json, lambda document: _show_export(document, plan))


def _render_card(project: Project, store: ArtifactStore, plan: ExportPlan) -> str:
    settings = project.settings
    comparison = current_artifact(store, "comparison")
    facts = card_facts(store, plan.model, comparison, task=settings.task, teacher_terms=settings.teacher.terms)
    return render_card(facts)


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
        "base_model": plan.base_entries.get("base_model_name_or_path"),
        "fingerprint": model.released_fingerprint,
    }


def _show_export(document: dict[str, Any], plan: ExportPlan) -> None:
    description = "a PEFT adapter" if plan.model.kind == "adapter" else "a Hugging Face model"
    stdout.print(
        f"Exported {display.plain(document['name'])} as {description} to {display.plain(document['path'])} "
        f"({len(document['files'])} files, {document['bytes'] / 1e6:.1f} MB)",
        soft_wrap=True,
    )
    if document["system_prompt"]:
        stdout.print("It was scored with the system prompt in README.md. Send that prompt as the first message.")


def serve(
    name: Annotated[str, typer.Argument(help="`champion`, an experiment, or a row of `ft compare`.")] = "champion",
    port: Annotated[int, typer.Option("--port", "-p", help="Port on 127.0.0.1.", min=1, max=65535)] = 8000,
    engine: Annotated[
        EngineChoice, typer.Option("--engine", help="Serving engine. auto: vllm if it is installed, else transformers.")
    ] = "auto",
    measure_requests: Annotated[
        int | None,
        typer.Option("--measure", min=1, help="Send N test prompts one after the other, print how long, and stop."),
    ] = None,
    project: ProjectOption = None,
) -> None:
    """Serve a model as an OpenAI-compatible endpoint on 127.0.0.1, with the prompt and greedy decoding of its scores.

    Example: ft serve champion --port 8001
    """
    from ft_pipeline.execution.workers.serving import require_free_port, run_engine

    requested_dtype()  # an unknown type is refused before anything is written
    opened_project = open_project(project)
    store = ArtifactStore(opened_project.store)
    model = find_model(store, name)
    require_servable(model)
    serving_engine = find_engine(engine)
    require_free_port(HOST, port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the engine, removes the folder
    is_ready = False

    def on_ready() -> None:
        nonlocal is_ready
        is_ready = True
        stderr.print(
            f"Serving {name} at http://{HOST}:{port}/v1 (model: {name}). Press Ctrl-C to stop it.", soft_wrap=True
        )
        if measure_requests is not None:
            settings = opened_project.settings.evaluation
            prompts = prompts_of_test_rows(_conversations(store).path, measure_requests)
            found = measure(f"http://{HOST}:{port}/v1", name, prompts, settings.max_new_tokens)
            stdout.print(found.describe(), soft_wrap=True)
            raise KeyboardInterrupt  # as a person would stop it

    stderr.print(f"Loading {name} ({display.plain(model.row)}) with {serving_engine.name} …", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="ft-serve-") as folder:
        write_served_folder(store, model, Path(folder))
        try:
            exit_code = run_engine(
                serving_engine.command(name, Path(folder), port),
                Path(folder),
                OFFLINE_ENVIRONMENT,
                (HOST, port),
                on_ready,
            )
        except KeyboardInterrupt:
            stderr.print("ft: stopped serving")
            return
    phase = "while serving" if is_ready else "before it was ready"
    stderr.print(f"[red]ft:[/red] {serving_engine.name} exited {phase} (exit code {exit_code}). Its output is above.")
    raise typer.Exit(FAILED)


def _conversations(store: ArtifactStore) -> Artifact:
    artifact = current_artifact(store, "conversations")
    if artifact is None:
        raise UserError("There are no conversations to take test prompts from yet. Run `ft run`.")
    return artifact
