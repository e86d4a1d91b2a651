"""A teacher on this machine that runs in vLLM, if vLLM's executable is installed.

A vLLM server is started on the loopback interface. It is stopped when all answers have arrived. vLLM is not imported,
so that it can be installed in a separate environment.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.distillation.answer_table import answer_row, read_prompts, too_long_prompt_columns, write_answers
from ft_pipeline.distillation.endpoint_teacher import text_columns
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt, token_lengths
from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.chat_completions import Endpoint
from ft_pipeline.models.endpoint.request_loop import ChatRequest, send_all
from ft_pipeline.models.endpoint.responses import Failure, Reply
from ft_pipeline.models.serving_engines import HOST, OFFLINE_ENVIRONMENT, Engine, find_program
from ft_pipeline.settings.teacher import EndpointSettings, TeacherSettings

URL = f"http://{HOST}/v1"
"""The URL in the keys of answers. It has no port, since the port differs between runs."""
MAX_CONCURRENT_REQUESTS = 256
REQUEST_TIMEOUT_SECONDS = 3600.0
START_TIMEOUT_SECONDS = 1800.0
"""Loading a large model from a slow disk and compiling it takes minutes."""
STOP_TIMEOUT_SECONDS = 20.0
"""Wait this long after each signal that stops the server."""
ENDPOINT_COLUMNS = {"answered_at": None, "request_id": None, "reply_model": None}
"""Columns of answers.parquet that are only set for an endpoint, see answer_table.ANSWERS."""


def choose_engine(engine: str, device: str) -> Engine | None:
    """Return vLLM, or None if transformers is to be used. UserError if vLLM is required but not installed."""
    if engine == "transformers" or (engine == "auto" and not device.startswith("cuda")):
        return None
    program = find_program("vllm")
    if program is None and engine == "vllm":
        raise UserError(
            "teacher.engine is vllm, but `vllm` is not on the PATH. Install it (a separate environment is enough), or "
            "set `engine: transformers`."
        )
    return Engine("vllm", program) if program else None


def answer_all(job: Job, teacher_prompt: TeacherPrompt, engine: Engine) -> dict[str, Any]:
    """Answer every row of the input `unlabelled` with the model of the input `base_model`, write answers.parquet to
    `job.out`, and return the summary, with the keys of local_teacher.answer_all. UserError if the server does not
    start, or ends."""
    from ft_pipeline.models.load import load_tokenizer  # imports torch

    folder = job.inputs["base_model"]
    teacher = _server_settings(teacher_prompt.teacher, folder.name)
    tokenizer = load_tokenizer(folder)
    rows = list(read_prompts(job.inputs["unlabelled"]))
    plan = _RequestPlan(rows, TeacherPrompt(teacher, teacher_prompt.examples), tokenizer, folder)
    requests = [planned.request for planned in plan.answers if planned.request]
    with AnswerLog.open(job.work / "vllm", job.report.log) as log:
        resumed = sum(log.has_answer(request.key) or log.has_settled_failure(request.key) for request in requests)
        missing = resumed < len(requests)
        with _running_server(engine, job, plan.longest) if missing else contextlib.nullcontext() as server:
            extra = {"top_p": 1.0, "top_k": -1, "stop_token_ids": stop_token_ids(tokenizer)}
            totals = send_all(
                lambda: _WatchedEndpoint(server, teacher, extra), log, requests, len(requests), teacher, job.report
            )
        answers = [plan.answer_row(planned, log) for planned in plan.answers]
    checks = write_answers(answers, job.out)
    tokens = sum(answer["answer_tokens"] or 0 for answer in answers)
    return {
        "prompts": len(rows),
        "wanted": len(answers),
        "answered": sum(answer["finish_reason"] in {"stop", "length"} for answer in answers),
        "seconds": round(totals.seconds, 2),
        "answer_tokens": tokens,
        "tokens_per_second": round(tokens / totals.seconds, 1) if missing else 0.0,
        "resumed": resumed,
        "engine": "vllm",
        "checks": checks,
    }


def _server_settings(teacher: TeacherSettings, model: str) -> TeacherSettings:
    """Return the teacher's settings with our own server as endpoint.

    That server either answers or has ended, so the run never waits for it to come back (patience_seconds=0).
    """
    endpoint = EndpointSettings(
        url=URL,
        concurrency=MAX_CONCURRENT_REQUESTS,
        timeout_seconds=REQUEST_TIMEOUT_SECONDS,
        attempts=3,
        patience_seconds=0,
        max_failed=1.0,
    )
    return teacher.model_copy(update={"model": model, "engine": "auto", "revision": None, "endpoint": endpoint})


@dataclass(frozen=True)
class _PlannedAnswer:
    row: dict[str, Any]
    """The prompt's row in the table `unlabelled`."""
    sample: int
    request: ChatRequest | None
    """None if the prompt does not fit the model."""


class _RequestPlan:
    """All answers that are needed, and the request for each."""

    def __init__(self, rows: list[dict[str, Any]], teacher_prompt: TeacherPrompt, tokenizer: Any, folder: Path) -> None:
        self.lengths = token_lengths(tokenizer, teacher_prompt.render_prompts(tokenizer, rows))
        answer_tokens = teacher_prompt.teacher.max_new_tokens
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        context = config.get("text_config", config).get("max_position_embeddings")
        fitting = {
            row_id: length
            for row_id, length in self.lengths.items()
            if not context or length + answer_tokens <= context
        }
        self.longest = max(fitting.values(), default=0) + answer_tokens
        """Number of tokens of the longest prompt that fits, plus those of its answer."""
        self.answers = [
            _PlannedAnswer(
                row,
                sample,
                teacher_prompt.request(row["messages"], sample, row.get("tools")) if row["id"] in fitting else None,
            )
            for row in rows
            for sample in range(teacher_prompt.teacher.answers_per_prompt)
        ]

    def answer_row(self, planned: _PlannedAnswer, log: AnswerLog) -> dict[str, Any]:
        """Return the row of answers.parquet."""
        row, sample, request = planned.row, planned.sample, planned.request
        if request is None:
            return answer_row(row, sample, **too_long_prompt_columns(self.lengths[row["id"]]))
        return answer_row(row, sample, **text_columns(log, request) | ENDPOINT_COLUMNS)


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass
class _Server:
    """A running vLLM server and its log file."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def check(self) -> None:
        """Raise UserError if the server has ended."""
        code = self.process.poll()
        if code is not None:
            raise UserError(
                f"vLLM ended with exit code {code}{self._last_log_line()}. See {self.log}, or set "
                "`teacher.engine: transformers`. All answers so far are kept."
            )

    def _last_log_line(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return f"; the last line of its log: {lines[-1].strip()[:300]}" if lines else ""


class _WatchedEndpoint:
    """The Endpoint of our own server. If a request fails because the server has ended, UserError stops the run."""

    def __init__(self, server: _Server | None, teacher: TeacherSettings, extra: Mapping[str, Any]) -> None:
        assert server is not None and teacher.endpoint is not None
        endpoint = teacher.endpoint.model_copy(update={"url": f"http://{HOST}:{server.port}/v1"})
        self._server = server
        self._endpoint = Endpoint(teacher.model_copy(update={"endpoint": endpoint}), None, extra)

    async def ask(self, request: ChatRequest) -> Reply | Failure:
        outcome = await self._endpoint.ask(request)
        if isinstance(outcome, Failure):
            self._server.check()
        return outcome

    async def close(self) -> None:
        await self._endpoint.close()


@contextlib.contextmanager
def _running_server(engine: Engine, job: Job, longest: int) -> Iterator[_Server]:
    """Run the server until the block ends.

    longest: number of tokens of the longest prompt and its answer. It becomes the server's context length, because the
    model's full context may not fit the GPU's memory.
    """
    port = _free_port()
    folder = job.inputs["base_model"]
    command = [*engine.command(folder.name, folder.parent, port), "--max-model-len", str(longest)]
    log = job.work / "vllm.log"
    job.report.log(f"vLLM is loading the teacher; its log is {log}")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **OFFLINE_ENVIRONMENT},
            start_new_session=True,  # on an interrupt, requests in progress are answered first
        )
    server = _Server(process, port, log)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _wait_until_ready(server: _Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        server.check()
        try:
            urllib.request.urlopen(f"http://{HOST}:{server.port}/health", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise UserError(f"vLLM did not start within {START_TIMEOUT_SECONDS / 60:.0f} minutes. See {server.log}.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its child processes."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_SECONDS)
