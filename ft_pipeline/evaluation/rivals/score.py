"""The worker for the scores of rivals: `contender_scores`, `teacher_scores`, `rival_scores`, `calibrated_scores`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ft_pipeline.evaluation.items import Item, make_items, read_rows, select_test_rows
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.rivals import calibrated, endpoint, log, majority, nearest_answer, teacher, word_model
from ft_pipeline.evaluation.rivals.answered_questions import NoRival
from ft_pipeline.evaluation.rivals.questions import Answer, Answered, Questions
from ft_pipeline.evaluation.scoring.fingerprint import evaluation_parts, fingerprint
from ft_pipeline.evaluation.scoring.records import Answer as ScoredAnswer
from ft_pipeline.evaluation.scoring.records import Likelihood, sample_record, summarize_samples, write_scores
from ft_pipeline.job import Job
from ft_pipeline.models.chat import prompt_and_target
from ft_pipeline.models.endpoint.rate_limits import cost
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.settings.teacher import PriceSettings
from ft_pipeline.tables.formats.turns import spoken_text

RIVALS: Mapping[str, Callable[[Questions], Iterable[Answered]]] = {
    "endpoint": endpoint.answers,
    "log": log.answers,
    "teacher": teacher.answers,
    majority.NAME: majority.answers,
    nearest_answer.NAME: nearest_answer.answers,
    word_model.NAME: word_model.answers,
    calibrated.NAME: calibrated.answers,
}
"""A further one is a file in this folder, and a line here."""


def rivals_of(config: Mapping[str, Any]) -> Sequence[str]:
    """Return the rivals that a job scores."""
    if "rivals" in config:
        return list(config["rivals"])
    if "teacher" in config:
        return ["teacher"]
    return ["log" if config["contender"].get("answers") else "endpoint"]


def run(job: Job) -> dict[str, Any]:
    """Score each rival of the job on every test item. All are asked before the first answer is scored.

    config: evaluation, general_questions and general_texts (the last two only for the fingerprint), and what the rival
    reads of it. inputs: conversations, base_model (whose tokenizer counts the tokens of all rows). Raises UserError if
    a rival cannot answer.
    """
    settings = job.config["evaluation"]
    all_rows = read_rows(job.inputs["conversations"])
    rows = select_test_rows(all_rows, settings["max_test_rows"])
    items = make_items(rows)
    metrics = AnswerMetrics.of(job.config, items)
    metrics.check_references(items, all_rows)
    questions = Questions(job, all_rows, items)
    found, left_out = _ask(questions)
    tokenizer, parts = (
        load_tokenizer(job.inputs["base_model"]),
        evaluation_parts(rows, job.inputs["base_model"], job.config),
    )
    scored, records = [], []
    for answered in found:
        samples = _samples(tokenizer, items, answered.answers, metrics)
        scored.append(_row(answered, samples, metrics) | {"fingerprint": fingerprint(parts)})
        records += [{"name": answered.name, **sample} for sample in samples]
    tables: dict[str, list[dict[str, Any]]] = {"samples": records, "general": [], "tasks": [], "validation": []}
    write_scores(job.out, scored, parts, tables, metrics.custom_definitions)
    summary = {"rows": scored, "test_items": len(items), "test_rows": len(rows)}
    return summary | ({"left_out": left_out} if left_out else {})


def _ask(questions: Questions) -> tuple[list[Answered], list[str]]:
    """Return the answers of each rival, and a sentence for each one that can have none."""
    found: list[Answered] = []
    left_out = []
    for name in rivals_of(questions.job.config):
        try:
            found += RIVALS[name](questions)
        except NoRival as reason:
            left_out.append(f"{name} is left out: {reason}.")
    return found, left_out


def _samples(
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


def _row(answered: Answered, samples: Sequence[dict[str, Any]], metrics: AnswerMetrics) -> dict[str, Any]:
    """Return a row of scores.json, without its fingerprint."""
    answers = answered.answers
    return {
        "name": answered.name,
        "kind": answered.kind,
        "scores": {metric: {"value": value} for metric, value in summarize_samples(samples, metrics).items()},
        "prompt_tokens_per_call": _known_mean([answer["prompt_tokens"] for answer in answers]),
        "generated_tokens_per_call": fmean(sample["generated_tokens"] for sample in samples),
        "seconds_per_call": _known_mean([answer["seconds"] for answer in answers]),
        "cost_per_call": _cost_per_call(answered.prices, answers),
        "cut_off": sum(answer["finish_reason"] == "length" for answer in answers),
        "unanswered": sum(map(_is_unanswered, answers)),
        "model": dict(answered.model),
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
