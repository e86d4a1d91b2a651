"""`ft serve`: serve a model as an OpenAI-compatible endpoint."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import httpx2
import numpy as np
import typer

from ft_pipeline.cli.command import UnopenedProject, command
from ft_pipeline.cli.common import FAILED, experiment_names, show_error, stderr, stdout
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError, require_extra
from ft_pipeline.evaluation.items import make_items, read_rows, select_test_rows
from ft_pipeline.models.compute_setting import requested_dtype
from ft_pipeline.models.serving_engines import HOST, find_engine
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.tables.formats.turns import Message
from ft_pipeline.tables.formats.turns import plain as plain_turns

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Latency:
    """Seconds from a request to its whole answer."""

    requests: int
    p50: float
    p95: float
    answer_tokens: float
    """Mean per answer, as the server counts them."""

    def describe(self) -> str:
        """Return the result as a sentence."""
        return (
            f"{self.requests} single requests: half of them took at most {self.p50:.2f} s, 95 % at most {self.p95:.2f} "
            f"s, with {self.answer_tokens:.0f} tokens per answer."
        )


MEASURED_TOKENS = 96
"""The longest answer whose time is measured, unless the project sets a limit."""
EngineChoice = Literal["auto", "vllm", "transformers", "llama.cpp"]


@command
def serve(
    project: UnopenedProject,
    name: Annotated[
        str,
        typer.Argument(
            help="`champion`, an experiment, or a row of `ft compare`.",
            autocompletion=experiment_names,
        ),
    ] = "champion",
    port: Annotated[int, typer.Option("--port", "-p", help="Port on 127.0.0.1.", min=1, max=65535)] = 8000,
    engine: Annotated[
        EngineChoice, typer.Option("--engine", help="Serving engine. auto: vllm if it is installed, else transformers.")
    ] = "auto",
    quantize: Annotated[
        str | None,
        typer.Option("--quantize", help="Type of the GGUF file that llama.cpp serves. Default: the only one, or q8_0."),
    ] = None,
    swap: Annotated[
        bool, typer.Option("--swap/--no-swap", help="Serve a new champion without a restart. Both are loaded at once.")
    ] = True,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Name that a proxy sends in the header Host. Repeat it for more."),
    ] = None,
    measure_requests: Annotated[
        int | None,
        typer.Option("--measure", min=1, help="Send N test prompts one after the other, print how long, and stop."),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Folder, or .jsonl file, to which requests, answers and feedback are appended."),
    ] = None,
) -> None:
    """Serve a model as an OpenAI-compatible endpoint on 127.0.0.1, with the prompt and greedy decoding of its scores.

    Example: ft serve champion --port 8001
    """
    require_extra("serve", "`ft serve` needs", "prometheus_client", "fastapi")
    from ft_pipeline.serving.engine_start import EngineFailed
    from ft_pipeline.serving.session import ServingOptions, serve_model

    requested_dtype()  # an unknown type is refused before anything is written
    opened = project.open()
    serving_engine = find_engine(engine)
    if quantize is not None and serving_engine.name != "llama.cpp":
        raise UserError(f"--quantize is for llama.cpp only, not {serving_engine.name}. Add --engine llama.cpp.")
    options = ServingOptions(
        name, port, serving_engine, quantize and quantize.lower(), log, swap, tuple(allow_host or ())
    )

    def on_ready() -> None:
        if measure_requests is not None:
            _measure(opened, name, port, measure_requests)
            raise KeyboardInterrupt  # as a person would stop it

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the engines, removes their folder
    try:
        serve_model(opened, options, lambda line: say(stderr, plain(line)), on_ready)
    except KeyboardInterrupt:
        say(stderr, "ft: stopped serving")
    except EngineFailed as failure:
        show_error(f"{serving_engine.name} {failure}. Its output is above.")
        raise typer.Exit(FAILED) from failure


def _measure(project: Project, name: str, port: int, requests: int) -> None:
    """Send test prompts one after the other, and print how long the answers took."""
    prompts = prompts_of_test_rows(_conversations(ArtifactStore(project.store)).path, requests)
    limit = project.settings.evaluation.max_new_tokens or MEASURED_TOKENS
    found = measure(f"http://{HOST}:{port}/v1", name, prompts, limit)
    say(stdout, found.describe())


def _conversations(store: ArtifactStore) -> Artifact:
    artifact = current_artifact(store, "conversations")
    if artifact is None:
        raise UserError("There are no conversations to take test prompts from yet. Run `ft run`.")
    return artifact


def prompts_of_test_rows(conversations: Path, count: int) -> list[list[Message]]:
    """Return the turns before the first answers of the test split. UserError if the split is empty."""
    items = make_items(select_test_rows(read_rows(conversations), None))
    return [plain_turns(item.messages[:-1]) for item in items[:count]]


def measure(url: str, model: str, prompts: Sequence[Sequence[Message]], max_new_tokens: int) -> Latency:
    """Send the prompts one after the other, after one that warms the server up. UserError if one is refused."""
    seconds, tokens = [], []
    with httpx2.Client(timeout=TIMEOUT_SECONDS) as client:
        for prompt in [prompts[0], *prompts]:
            body = {"model": model, "messages": list(prompt), "max_tokens": max_new_tokens, "temperature": 0}
            started = time.perf_counter()
            reply = client.post(f"{url}/chat/completions", json=body)
            seconds.append(time.perf_counter() - started)
            if reply.status_code != httpx2.codes.OK:
                raise UserError(f"The server refused a request: HTTP {reply.status_code}. {reply.text[:200]}")
            tokens.append((reply.json().get("usage") or {}).get("completion_tokens") or 0)
    p50, p95 = np.quantile(seconds[1:], [0.5, 0.95])
    return Latency(len(prompts), float(p50), float(p95), float(np.mean(tokens[1:])))
