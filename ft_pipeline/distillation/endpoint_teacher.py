"""A teacher at an endpoint: its log in the store, its key from the environment, its answers as rows."""

import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ft_pipeline.distillation.answer_table import answer_row, count_prompts, read_prompts, write_answers
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt, teacher_sha256
from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.chat_completions import Endpoint
from ft_pipeline.models.endpoint.rate_limits import cost
from ft_pipeline.models.endpoint.request_loop import ChatRequest, RequestTotals, send_all
from ft_pipeline.models.endpoint.responses import RULES
from ft_pipeline.settings.teacher import EndpointSettings, TeacherSettings


def answer_all(job: Job, prompter: TeacherPrompt) -> dict[str, Any]:
    """Send every row of the input `unlabelled` to the endpoint, write answers.parquet to `job.out`, and return the
    summary."""
    teacher = prompter.teacher
    prompts = job.inputs["unlabelled"]

    def questions() -> Iterator[ChatRequest]:
        return (question for _, question in _questions(prompts, prompter))

    wanted = count_prompts(prompts) * teacher.answers_per_prompt
    with AnswerLog.open(log_folder(job.shared or job.work, teacher), job.report.log) as log:
        asked = ask(log, questions(), wanted, teacher, job)
        write_answers(_rows(log, prompts, prompter), job.out)
        return {
            "prompts": count_prompts(prompts),
            "wanted": wanted,
            **asked_summary(asked),
            **spent_summary(log, teacher),
        }


def ask(
    log: AnswerLog, questions: Iterable[ChatRequest], total: int, teacher: TeacherSettings, job: Job
) -> RequestTotals:
    """Send the requests that have no answer in the log. UserError as in `send_all`, and if the key is not set."""
    assert teacher.endpoint is not None
    settings = teacher.endpoint
    return send_all(lambda: Endpoint(teacher, _key(settings)), log, questions, total, teacher, job.report)


def log_folder(shared: Path, teacher: TeacherSettings) -> Path:
    """The folder of a teacher's log. Its name is readable, and unique for the pair of URL and model."""
    name = re.sub(r"[^a-z0-9]+", "-", teacher.model.lower()).strip("-")[-40:]
    return shared / f"{name}-{teacher_sha256(teacher)[:12]}"


def host_of(endpoint: EndpointSettings) -> str:
    """The endpoint's host, with its port if the URL has one."""
    return urlsplit(endpoint.url).netloc


def asked_summary(asked: RequestTotals) -> dict[str, Any]:
    """Numbers of this run: requests answered by earlier runs, answered now and failed; seconds; answers per second."""
    rate = round((asked.answered + asked.failed) / asked.seconds, 2) if asked.seconds else 0.0
    return {
        "known_before": asked.known,
        "answered_now": asked.answered,
        "failed": asked.failed,
        "seconds": round(asked.seconds, 2),
        "answers_per_second": rate,
    }


def spent_summary(log: AnswerLog, teacher: TeacherSettings) -> dict[str, Any]:
    """Totals of all runs with this teacher in this project: requests, paid ones, failures by reason, tokens, cost."""
    assert teacher.endpoint is not None
    spent = log.spent
    prices = teacher.endpoint.prices
    return {
        "spent": {
            "requests": spent.requests,
            "answers": spent.answers,
            "paid_requests": spent.paid,
            "perhaps_paid_requests": spent.perhaps_paid,
            "failed_requests": dict(sorted(spent.failures.items())),
            "prompt_tokens": spent.prompt_tokens,
            "answer_tokens": spent.answer_tokens,
            "cost": round(cost(prices, spent.prompt_tokens, spent.answer_tokens), 6),
        }
    }


def _key(endpoint: EndpointSettings) -> str | None:
    name = endpoint.api_key_env
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(
            f"The environment variable {name} (teacher.endpoint.api_key_env) is not set. Set it where you start "
            "`ft run` or `ft ui`."
        )
    return key


def _rows(log: AnswerLog, prompts: Path, prompter: TeacherPrompt) -> Iterator[dict[str, Any]]:
    for row, question in _questions(prompts, prompter):
        yield answer_row(row, question.sample, **answer_of(log, question))


def _questions(prompts: Path, prompter: TeacherPrompt) -> Iterator[tuple[dict[str, Any], ChatRequest]]:
    for row in read_prompts(prompts):
        for sample in range(prompter.teacher.answers_per_prompt):
            yield row, prompter.question(row["messages"], sample)


def answer_of(log: AnswerLog, question: ChatRequest) -> dict[str, Any]:
    """The log's entry for a request, in the columns of answers.parquet."""
    entry = log.entry(question.key)
    if entry is None:
        raise RuntimeError("the log has neither an answer nor a failure of a request")
    failed = entry["event"] == "failed"
    code = RULES[entry["reason"]].code if failed else ""
    finish = {"answer_cut_off": "length", "empty_output": "stop"}.get(code, "failed") if failed else "stop"
    return {
        "answer": "" if finish == "failed" else entry["answer"],
        "finish_reason": finish,
        "failure": entry["message"] if failed else None,
        "prompt_tokens": entry["prompt_tokens"],
        "answer_tokens": entry["answer_tokens"],
        "answered_at": datetime.fromtimestamp(entry["time"], UTC).isoformat(timespec="seconds"),
        "request_id": entry["request_id"],
        "reply_model": entry["model"],
    }
