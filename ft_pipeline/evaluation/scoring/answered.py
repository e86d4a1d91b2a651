"""Scores of models of which only answers are known, such as those behind an endpoint: no likelihoods."""

import os
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ft_pipeline.distillation import endpoint_teacher
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.model_kinds import ModelKind
from ft_pipeline.evaluation.scoring.records import Answer as ScoredAnswer
from ft_pipeline.evaluation.scoring.records import Likelihood, sample_record, summarize_samples
from ft_pipeline.job import Job
from ft_pipeline.models.chat import prompt_and_target
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.rate_limits import cost
from ft_pipeline.models.endpoint.request_loop import ChatRequest
from ft_pipeline.settings.teacher import PriceSettings, TeacherSettings
from ft_pipeline.tables.formats.turns import spoken_text

Answer = dict[str, Any]
"""answer, finish_reason, prompt_tokens (by the model's own tokenizer, or None), seconds (or None), and `calls` of
tools; from an endpoint also the other columns of answers.parquet."""


def requested_answers(job: Job, model: TeacherSettings, requests: Sequence[ChatRequest]) -> list[Answer]:
    """Return the answers of an endpoint from its log, after requesting those that are missing: each is paid for once.

    Then the key of the endpoint is removed from the environment: the project's metrics run next in this process.
    Raises UserError if the endpoint cannot be reached or fails too often.
    """
    with AnswerLog.open(endpoint_teacher.log_folder(job.shared or job.work, model), job.report.log) as log:
        endpoint_teacher.send_requests(log, requests, len(requests), model, job)
        for name in job.secrets:
            os.environ.pop(name, None)
        return [{**endpoint_teacher.answer_columns(log, request), **_seconds(log, request.key)} for request in requests]


def _seconds(log: AnswerLog, key: str) -> dict[str, float | None]:
    entry = log.entry(key)
    return {"seconds": entry["seconds"] if entry else None}


def answered_samples(
    tokenizer: Any, items: Sequence[Item], answers: Sequence[Answer], answer_metrics: AnswerMetrics
) -> list[dict[str, Any]]:
    """Return samples as scorer.py writes them. Lengths are in tokens of the base model, with a stop token, as for all
    rows."""

    def count_tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def record(item: Item, answer: Answer) -> dict[str, Any]:
        reference_tokens = count_tokens(prompt_and_target(tokenizer, item.messages, item.tools)[1])
        calls = answer.get("calls", ())
        text = spoken_text({"content": answer["answer"], "tool_calls": calls})
        scored = ScoredAnswer(text, answer["finish_reason"], answer["prompt_tokens"], count_tokens(text) + 1, calls)
        prompt = "\n\n".join(turn["content"] for turn in item.messages[:-1])
        return sample_record(item, prompt, reference_tokens, Likelihood(), scored, answer_metrics)

    return answer_metrics.complete([record(item, answer) for item, answer in zip(items, answers, strict=True)])


def answered_row(
    name: str,
    kind: ModelKind,
    facts: dict[str, Any],
    prices: PriceSettings,
    answers: Sequence[Answer],
    samples: Sequence[dict[str, Any]],
    evaluation_fingerprint: str,
    answer_metrics: AnswerMetrics,
) -> dict[str, Any]:
    """Return a row of scores.json for a model of which only answers are known."""
    scores = summarize_samples(samples, answer_metrics)
    return {
        "name": name,
        "kind": kind,
        "scores": {metric: {"value": value} for metric, value in scores.items()},
        "prompt_tokens_per_call": _known_mean([answer["prompt_tokens"] for answer in answers]),
        "generated_tokens_per_call": fmean(sample["generated_tokens"] for sample in samples),
        "seconds_per_call": _known_mean([answer["seconds"] for answer in answers]),
        "cost_per_call": _cost_per_call(prices, answers),
        "cut_off": sum(answer["finish_reason"] == "length" for answer in answers),
        "unanswered": sum(map(_is_unanswered, answers)),
        "fingerprint": evaluation_fingerprint,
        "model": facts,
        "general": None,
    }


def _cost_per_call(prices: PriceSettings, answers: Sequence[Answer]) -> float | None:
    """Return the mean cost per call in the currency of the prices; None if there are no prices."""
    if prices == PriceSettings():
        return None
    return fmean(cost(prices, answer["prompt_tokens"] or 0, answer.get("answer_tokens") or 0) for answer in answers)


def _is_unanswered(answer: Answer) -> bool:
    return answer["finish_reason"] == "failed" or not (answer["answer"] or answer.get("calls"))


def _known_mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
