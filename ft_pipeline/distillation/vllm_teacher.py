"""A teacher on this machine in vLLM, if its executable is installed.

A server is started on loopback, in a process that ends with the work. vLLM is not imported, so that it can be installed
in a separate environment.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.distillation.answer_table import answer_row, read_prompts, unasked, write_answers
from ft_pipeline.distillation.endpoint_teacher import answer_of
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
AT_ONCE = 256
TIMEOUT_SECONDS = 3600.0
START_SECONDS = 1800.0
"""Loading a large model from a slow disk and compiling it takes minutes."""
STOP_SECONDS = 20.0
LOCAL_ONLY = {"answered_at": None, "request_id": None, "reply_model": None}
"""Answers of a model on this machine can be reproduced, so the time of an answer has no meaning."""


def wanted(engine: str, device: str) -> Engine | None:
    """vLLM if it should answer, None for transformers. UserError if vLLM is required but not installed."""
    if engine == "transformers" or (engine == "auto" and not device.startswith("cuda")):
        return None
    program = find_program("vllm")
    if program is None and engine == "vllm":
        raise UserError(
            "teacher.engine is vllm, but `vllm` is not on the PATH. Install it (a separate environment is enough), or "
            "set `engine: transformers`."
        )
    return Engine("vllm", program) if program else None


def answer_all(job: Job, prompter: TeacherPrompt, engine: Engine) -> dict[str, Any]:
    """Answer every row of the input `unlabelled` with the model of the input `base_model`, write answers.parquet to
    `job.out`, and return the summary, with the keys of local_teacher.answer_all. UserError if the server does not
    start, or ends."""
    from ft_pipeline.models.load import load_tokenizer  # imports torch

    folder = job.inputs["base_model"]
    teacher = _behind_a_server(prompter.teacher, folder.name)
    tokenizer = load_tokenizer(folder)
    work = _Work(
        list(read_prompts(job.inputs["unlabelled"])), TeacherPrompt(teacher, prompter.examples), tokenizer, folder
    )
    questions = [question for _, _, question in work.wanted if question]
    with AnswerLog.open(job.work / "vllm", job.report.log) as log:
        known = sum(log.has_answer(question.key) or log.has_settled_failure(question.key) for question in questions)
        missing = known < len(questions)
        with _serving(engine, job, work.longest) if missing else contextlib.nullcontext() as server:
            extra = {"top_p": 1.0, "top_k": -1, "stop_token_ids": stop_token_ids(tokenizer)}
            asked = send_all(
                lambda: _Watched(server, teacher, extra), log, questions, len(questions), teacher, job.report
            )
        answers = [work.row(log, *wanted_answer) for wanted_answer in work.wanted]
    write_answers(answers, job.out)
    tokens = sum(answer["answer_tokens"] or 0 for answer in answers)
    return {
        "prompts": len(work.rows),
        "wanted": len(answers),
        "answered": sum(answer["finish_reason"] in {"stop", "length"} for answer in answers),
        "seconds": round(asked.seconds, 2),
        "answer_tokens": tokens,
        "tokens_per_second": round(tokens / asked.seconds, 1) if missing else 0.0,
        "resumed": known,
        "engine": "vllm",
    }


def _behind_a_server(teacher: TeacherSettings, model: str) -> TeacherSettings:
    """Settings for requests of request_loop.py to our own server, which either answers or has ended."""
    endpoint = EndpointSettings(
        url=URL, concurrency=AT_ONCE, timeout_seconds=TIMEOUT_SECONDS, attempts=3, patience_seconds=0, max_failed=1.0
    )
    return teacher.model_copy(update={"model": model, "engine": "auto", "revision": None, "endpoint": endpoint})


class _Work:
    """All answers that are requested, and which prompts fit the model."""

    def __init__(self, rows: list[dict[str, Any]], prompter: TeacherPrompt, tokenizer: Any, folder: Path) -> None:
        self.rows = rows
        self.lengths = token_lengths(tokenizer, prompter.rendered(tokenizer, rows))
        room = prompter.teacher.max_new_tokens
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        context = config.get("text_config", config).get("max_position_embeddings")
        fitting = {key: length for key, length in self.lengths.items() if not context or length + room <= context}
        self.longest = max(fitting.values(), default=0) + room
        """Number of tokens of the longest prompt that fits, plus those of its answer."""
        self.wanted: list[tuple[dict[str, Any], int, ChatRequest | None]] = [
            (row, sample, prompter.question(row["messages"], sample) if row["id"] in fitting else None)
            for row in rows
            for sample in range(prompter.teacher.answers_per_prompt)
        ]
        """(row, sample number, request). The request is None if the prompt does not fit."""

    def row(self, log: AnswerLog, row: dict[str, Any], sample: int, question: ChatRequest | None) -> dict[str, Any]:
        """The row of answers.parquet."""
        if question is None:
            return answer_row(row, sample, **unasked(self.lengths[row["id"]]))
        return answer_row(row, sample, **answer_of(log, question) | LOCAL_ONLY)


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass
class _Server:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def check(self) -> None:
        """Raise UserError if the server has ended."""
        code = self.process.poll()
        if code is not None:
            lines = [
                line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
            ]
            last_line = f"; the last line of its log: {lines[-1].strip()[:300]}" if lines else ""
            raise UserError(
                f"vLLM ended with exit code {code}{last_line}. See {self.log}, or set `teacher.engine: transformers`. "
                "All answers so far are kept."
            )


class _Watched:
    """An Endpoint that raises UserError when the server has ended, instead of waiting for it."""

    def __init__(self, server: _Server | None, teacher: TeacherSettings, extra: Mapping[str, Any]) -> None:
        assert server is not None and teacher.endpoint is not None
        here = teacher.endpoint.model_copy(update={"url": f"http://{HOST}:{server.port}/v1"})
        self._server = server
        self._endpoint = Endpoint(teacher.model_copy(update={"endpoint": here}), None, extra)

    async def ask(self, messages: Sequence[Mapping[str, str]], sample: int = 0) -> Reply | Failure:
        outcome = await self._endpoint.ask(messages, sample)
        if isinstance(outcome, Failure):
            self._server.check()
        return outcome

    async def close(self) -> None:
        await self._endpoint.close()


@contextlib.contextmanager
def _serving(engine: Engine, job: Job, longest: int) -> Iterator[_Server]:
    """Run the server until the block ends.

    longest: tokens of the longest prompt and its answer. A longer context is not reserved, since it would have to fit
    the GPU.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
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
        _wait_for(server)
        yield server
    finally:
        _stop(process)


def _wait_for(server: _Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        server.check()
        try:
            urllib.request.urlopen(f"http://{HOST}:{server.port}/health", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise UserError(f"vLLM did not start within {START_SECONDS / 60:.0f} minutes. See {server.log}.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
