"""A teacher at an endpoint: send the requests, keep the answers in a log, and write them as rows."""

import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ft_pipeline.distillation.answer_table import (
    answer_row,
    calling_answer_columns,
    count_prompts,
    read_prompts,
    write_answers,
)
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt, teacher_sha256
from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.rate_limits import cost
from ft_pipeline.models.endpoint.request_loop import TEACHER, Asked, ChatRequest, RequestTotals, send_all
from ft_pipeline.models.endpoint.responses import RULES
from ft_pipeline.settings.teacher import EndpointSettings, TeacherSettings


def answer_all(job: Job, teacher_prompt: TeacherPrompt) -> dict[str, Any]:
    """Answer every row of the input `unlabelled` with the model at the endpoint, write answers.parquet to `job.out`,
    and return the summary."""
    teacher = teacher_prompt.teacher
    unlabelled = job.inputs["unlabelled"]
    prompts = count_prompts(unlabelled)
    wanted = prompts * teacher.answers_per_prompt
    requests = (request for _, request in _requests(unlabelled, teacher_prompt))
    with AnswerLog.open(log_folder(job.shared or job.work, teacher), job.report.log) as log:
        totals = send_requests(log, requests, wanted, teacher, job)
        checks = write_answers(_answer_rows(log, unlabelled, teacher_prompt), job.out)
        return {
            "prompts": prompts,
            "wanted": wanted,
            **run_summary(totals),
            **spending_summary(log, teacher),
            "checks": checks,
        }


def send_requests(
    log: AnswerLog,
    requests: Iterable[ChatRequest],
    total: int,
    teacher: TeacherSettings,
    job: Job,
    asked: Asked = TEACHER,
) -> RequestTotals:
    """Send the requests that have no answer in the log. UserError as in `send_all`, and if the API key is not set."""
    from ft_pipeline.models.endpoint.chat_completions import Endpoint  # its client takes half a second to load

    assert teacher.endpoint is not None
    settings = teacher.endpoint
    return send_all(lambda: Endpoint(teacher, _api_key(settings)), log, requests, total, teacher, job.report, asked)


def log_folder(shared: Path, teacher: TeacherSettings) -> Path:
    """Return the folder of a teacher's log. Its name is readable, and unique for the pair of URL and model."""
    name = re.sub(r"[^a-z0-9]+", "-", teacher.model.lower()).strip("-")[-40:]
    return shared / f"{name}-{teacher_sha256(teacher)[:12]}"


def host_of(endpoint: EndpointSettings) -> str:
    """Return the endpoint's host, with its port if the URL has one."""
    return urlsplit(endpoint.url).netloc


def run_summary(totals: RequestTotals) -> dict[str, Any]:
    """Return the numbers of this run: requests answered by earlier runs, answered now and failed; seconds; and answers
    per second, failures included."""
    rate = round((totals.answered + totals.failed) / totals.seconds, 2) if totals.seconds else 0.0
    return {
        "known_before": totals.known,
        "answered_now": totals.answered,
        "failed": totals.failed,
        "seconds": round(totals.seconds, 2),
        "answers_per_second": rate,
    }


def spending_summary(log: AnswerLog, teacher: TeacherSettings) -> dict[str, Any]:
    """Return the totals of all runs with this teacher in this project: requests, how many of them were paid for,
    failures by reason, tokens, cost."""
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


def has_key(endpoint: EndpointSettings) -> bool:
    """Return whether the key of the endpoint is set, or none is needed."""
    return endpoint.api_key_env is None or bool(os.environ.get(endpoint.api_key_env, "").strip())


def _api_key(endpoint: EndpointSettings) -> str | None:
    name = endpoint.api_key_env
    if not has_key(endpoint):
        raise UserError(
            f"The environment variable {name} (`endpoint.api_key_env`) is not set. Set it where you start `ft run` or "
            "`ft ui`."
        )
    return os.environ[name].strip() if name else None


def _answer_rows(log: AnswerLog, unlabelled: Path, teacher_prompt: TeacherPrompt) -> Iterator[dict[str, Any]]:
    for row, request in _requests(unlabelled, teacher_prompt):
        yield answer_row(row, request.sample, **text_columns(log, request))


def text_columns(log: AnswerLog, request: ChatRequest) -> dict[str, Any]:
    """Return answer_columns as distillation reads them."""
    columns = answer_columns(log, request)
    calls = columns.pop("calls")
    return columns | calling_answer_columns(calls) if calls else columns


def _requests(unlabelled: Path, teacher_prompt: TeacherPrompt) -> Iterator[tuple[dict[str, Any], ChatRequest]]:
    """Yield each row of `unlabelled` with its requests, one per sample."""
    for row in read_prompts(unlabelled):
        for sample in range(teacher_prompt.teacher.answers_per_prompt):
            yield row, teacher_prompt.request(row["messages"], sample, row.get("tools"))


_FINISH_REASONS = {"answer_cut_off": "length", "empty_output": "stop"}
"""The finish_reason of failures that come with an answer, by reason code."""


def answer_columns(log: AnswerLog, request: ChatRequest) -> dict[str, Any]:
    """Return the log's entry for a request, as columns of answers.parquet, and `calls`: the tools that it calls."""
    entry = log.entry(request.key)
    if entry is None:
        raise RuntimeError("the log has neither an answer nor a failure of a request")
    failed = entry["event"] == "failed"
    finish_reason = _FINISH_REASONS.get(RULES[entry["reason"]].code, "failed") if failed else "stop"
    return {
        "answer": "" if finish_reason == "failed" else entry["answer"],
        "finish_reason": finish_reason,
        "failure": entry["message"] if failed else None,
        "prompt_tokens": entry["prompt_tokens"],
        "answer_tokens": entry["answer_tokens"],
        "answered_at": datetime.fromtimestamp(entry["time"], UTC).isoformat(timespec="seconds"),
        "request_id": entry["request_id"],
        "reply_model": entry["model"],
        "calls": entry.get("calls", []),
    }
