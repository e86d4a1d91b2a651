"""The worker for `teacher_scores`: score the teacher's answers to the test prompts. Its losses are unknown.

The teacher has the same limits as every other row: greedy decoding, and at most evaluation.max_new_tokens tokens. The
answers of an endpoint are written to the teacher's log, so that they are paid for only once.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ft_pipeline.distillation import endpoint_teacher
from ft_pipeline.distillation.teacher import teacher_settings
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.evaluation.items import Item, make_items, select_test_rows
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.scoring.answer_limit import answer_limit
from ft_pipeline.evaluation.scoring.fingerprint import evaluation_parts, fingerprint
from ft_pipeline.evaluation.scoring.records import Answer as ScoredAnswer
from ft_pipeline.evaluation.scoring.records import Likelihood, sample_record, summarize_samples, write_scores
from ft_pipeline.evaluation.scoring.scorer import read_conversations
from ft_pipeline.job import Job
from ft_pipeline.models.chat import prompt_and_target, render
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.decoding.generate import generate
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.rate_limits import cost
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.teacher import PriceSettings

ROW_NAME = "teacher"
"""The teacher's name in scores.json."""
Answer = dict[str, Any]
"""answer, finish_reason, prompt_tokens (by the teacher's tokenizer, or None), seconds (or None); from an endpoint also
the other columns of answers.parquet."""


def run(job: Job) -> dict[str, Any]:
    """Score the teacher on every test item.

    config: teacher (TeacherSettings), name (the teacher's), prices (PriceSettings), evaluation, general_questions and
    general_texts (the last two only for the fingerprint).
    inputs: conversations, base_model (whose tokenizer counts the tokens of all rows), and `teacher_model` if there is
    no endpoint. Raises UserError if the teacher cannot be reached or fails too often.
    """
    settings = job.config["evaluation"]
    rows = select_test_rows(read_conversations(job), settings["max_test_rows"])
    items = make_items(rows)
    scoring_overrides = {"temperature": 0.0, "max_new_tokens": settings["max_new_tokens"], "answers_per_prompt": 1}
    teacher = teacher_settings(job).model_copy(update=scoring_overrides)
    teacher_prompt = TeacherPrompt.of(teacher, job.inputs["conversations"])
    answers = (
        _endpoint_answers(job, teacher_prompt, items)
        if teacher.endpoint
        else _local_answers(job, teacher_prompt, items)
    )
    answer_metrics = AnswerMetrics.from_config(job.config)
    samples = _samples(load_tokenizer(job.inputs["base_model"]), items, answers, answer_metrics)
    parts = evaluation_parts(rows, job.inputs["base_model"], job.config)
    facts = {
        "technique": None,
        "teacher": job.config["name"],
        "endpoint_host": endpoint_teacher.host_of(teacher.endpoint) if teacher.endpoint else None,
    }
    prices = PriceSettings.model_validate(job.config["prices"])
    row = _row(facts, prices, answers, samples, fingerprint(parts), answer_metrics)
    named_samples = [{"name": ROW_NAME, **sample} for sample in samples]
    records: dict[str, list[dict[str, Any]]] = {"samples": named_samples, "general": [], "tasks": [], "validation": []}
    write_scores(job.out, [row], parts, records, answer_metrics.custom_definitions)
    return {"rows": [row], "test_items": len(items), "test_rows": len(rows)}


def _endpoint_answers(job: Job, teacher_prompt: TeacherPrompt, items: Sequence[Item]) -> list[Answer]:
    """Return the endpoint's answers from the teacher's log, after requesting those that are missing.

    A failed request counts as an empty answer.
    """
    teacher = teacher_prompt.teacher
    requests = [teacher_prompt.request(item.messages[:-1], tools=item.tools) for item in items]
    with AnswerLog.open(endpoint_teacher.log_folder(job.shared or job.work, teacher), job.report.log) as log:
        endpoint_teacher.send_requests(log, requests, len(requests), teacher, job)
        return [{**endpoint_teacher.answer_columns(log, request), **_seconds(log, request.key)} for request in requests]


def _seconds(log: AnswerLog, key: str) -> dict[str, float | None]:
    entry = log.entry(key)
    return {"seconds": entry["seconds"] if entry else None}


def _local_answers(job: Job, teacher_prompt: TeacherPrompt, items: Sequence[Item]) -> list[Answer]:
    """Return the answers of a model on this machine."""
    folder = job.inputs["teacher_model"]
    tokenizer, model = load_tokenizer(folder), load_model(folder, job.device)
    speed_up_products(model, trains=False)
    prompts = [
        render(tokenizer, teacher_prompt.full_prompt(item.messages[:-1]), add_generation_prompt=True, tools=item.tools)
        for item in items
    ]
    references = [item.reference for item in items]
    limit = answer_limit(
        teacher_prompt.teacher.max_new_tokens, tokenizer, load_tokenizer(job.inputs["base_model"]), references
    )
    answers = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=limit,
        batch_size=job.config["evaluation"]["batch_size"],
        report=job.report,
    )
    return [
        {
            "answer": answer.text,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
            "seconds": None,
        }
        for answer in answers
    ]


def _samples(
    tokenizer: Any, items: Sequence[Item], answers: Sequence[Answer], answer_metrics: AnswerMetrics
) -> list[dict[str, Any]]:
    """Return samples as scorer.py writes them. Lengths are in tokens of the base model, with a stop token, as for all
    rows."""

    def count_tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def record(item: Item, answer: Answer) -> dict[str, Any]:
        reference_tokens = count_tokens(prompt_and_target(tokenizer, item.messages, item.tools)[1])
        scored = ScoredAnswer(
            answer["answer"], answer["finish_reason"], answer["prompt_tokens"], count_tokens(answer["answer"]) + 1
        )
        prompt = item.messages[-2]["content"]
        return sample_record(item, prompt, reference_tokens, Likelihood(), scored, answer_metrics)

    return [record(item, answer) for item, answer in zip(items, answers, strict=True)]


def _row(
    facts: dict[str, Any],
    prices: PriceSettings,
    answers: Sequence[Answer],
    samples: Sequence[dict[str, Any]],
    evaluation_fingerprint: str,
    answer_metrics: AnswerMetrics,
) -> dict[str, Any]:
    scores = summarize_samples(samples, answer_metrics)
    return {
        "name": ROW_NAME,
        "kind": "teacher",
        "scores": {metric: {"value": value} for metric, value in scores.items()},
        "prompt_tokens_per_call": _known_mean([answer["prompt_tokens"] for answer in answers]),
        "generated_tokens_per_call": fmean(sample["generated_tokens"] for sample in samples),
        "seconds_per_call": _known_mean([answer["seconds"] for answer in answers]),
        "cost_per_call": _cost_per_call(prices, answers),
        "cut_off": sum(answer["finish_reason"] == "length" for answer in answers),
        "unanswered": sum(answer["finish_reason"] == "failed" or not answer["answer"] for answer in answers),
        "fingerprint": evaluation_fingerprint,
        "model": facts,
        "general": None,
    }


def _cost_per_call(prices: PriceSettings, answers: Sequence[Answer]) -> float | None:
    """Return the mean cost per call in the currency of the prices; None if there are no prices."""
    if prices == PriceSettings():
        return None
    return fmean(cost(prices, answer["prompt_tokens"] or 0, answer.get("answer_tokens") or 0) for answer in answers)


def _known_mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
