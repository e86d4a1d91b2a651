"""`ft serve`: serve a model as an OpenAI-compatible endpoint."""

import contextlib
import signal
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from ft_pipeline.cli import display
from ft_pipeline.cli.common import FAILED, ProjectOption, open_project, stderr, stdout
from ft_pipeline.errors import UserError
from ft_pipeline.models.compute_setting import requested_dtype
from ft_pipeline.models.serving_engines import HOST, OFFLINE_ENVIRONMENT, find_engine
from ft_pipeline.project import Project
from ft_pipeline.release.export.served_folder import require_servable, write_served_folder
from ft_pipeline.release.latency import measure, prompts_of_test_rows
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact

EngineChoice = Literal["auto", "vllm", "transformers"]


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
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Folder, or .jsonl file, to which requests, answers and feedback are appended."),
    ] = None,
    project: ProjectOption = None,
) -> None:
    """Serve a model as an OpenAI-compatible endpoint on 127.0.0.1, with the prompt and greedy decoding of its scores.

    Example: ft serve champion --port 8001
    """
    from ft_pipeline.execution.workers.chat_exchange import chat_rules
    from ft_pipeline.execution.workers.serving import require_free_port, run_engine
    from ft_pipeline.execution.workers.serving_front import Front, free_port, front_server
    from ft_pipeline.execution.workers.traffic_log import TrafficLog

    requested_dtype()  # an unknown type is refused before anything is written
    opened_project = open_project(project)
    store = ArtifactStore(opened_project.store)
    model = find_model(store, name)
    require_servable(model)
    serving_engine = find_engine(engine)
    require_free_port(HOST, port)
    traffic = (
        None if log is None else TrafficLog(log, opened_project.settings.name, opened_project.root / "data" / "raw")
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the engine, removes the folder
    is_ready = False

    def on_ready() -> None:
        nonlocal is_ready
        is_ready = True
        if front is not None:
            fronts.enter_context(front_server(front, HOST, port))
        if traffic is not None:
            stderr.print(display.plain(traffic.description), soft_wrap=True)
        stderr.print(
            f"Serving {name} at http://{HOST}:{port}/v1 (model: {name}). Press Ctrl-C to stop it.", soft_wrap=True
        )
        if measure_requests is not None:
            _measure(opened_project, store, name, port, measure_requests)
            raise KeyboardInterrupt  # as a person would stop it

    stderr.print(f"Loading {name} ({display.plain(model.row)}) with {serving_engine.name} …", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="ft-serve-") as folder, contextlib.ExitStack() as fronts:
        unread = not serving_engine.reads_calls
        _, form = write_served_folder(store, model, Path(folder), unread_answers=unread)
        front = None
        if traffic is not None or not serving_engine.reads_calls or form.family is None:
            rules = chat_rules(form, engine_reads_calls=serving_engine.reads_calls)
            front = Front((HOST, free_port(HOST)), rules, traffic)
        address = (HOST, port) if front is None else front.engine
        parser = form.family.name if form.family else None
        command = serving_engine.command(name, Path(folder), address[1], parser)
        try:
            exit_code = run_engine(command, Path(folder), OFFLINE_ENVIRONMENT, address, on_ready)
        except KeyboardInterrupt:
            stderr.print("ft: stopped serving")
            return
    phase = "while serving" if is_ready else "before it was ready"
    stderr.print(f"[red]ft:[/red] {serving_engine.name} exited {phase} (exit code {exit_code}). Its output is above.")
    raise typer.Exit(FAILED)


def _measure(project: Project, store: ArtifactStore, name: str, port: int, requests: int) -> None:
    """Send test prompts one after the other, and print how long the answers took."""
    prompts = prompts_of_test_rows(_conversations(store).path, requests)
    found = measure(f"http://{HOST}:{port}/v1", name, prompts, project.settings.evaluation.max_new_tokens)
    stdout.print(found.describe(), soft_wrap=True)


def _conversations(store: ArtifactStore) -> Artifact:
    artifact = current_artifact(store, "conversations")
    if artifact is None:
        raise UserError("There are no conversations to take test prompts from yet. Run `ft run`.")
    return artifact
