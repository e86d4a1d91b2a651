"""The worker for `contender_scores`: score the answers of a contender, from an endpoint or from a log of production."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.distillation import endpoint_teacher
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item, make_items, read_rows, select_test_rows
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.scoring.answered import Answer, answered_row, answered_samples, requested_answers
from ft_pipeline.evaluation.scoring.fingerprint import evaluation_parts, fingerprint
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.evaluation.scoring.records import write_scores
from ft_pipeline.job import Job
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.models.tool_calls import Call, calls_of_reply
from ft_pipeline.project import read_jsonl
from ft_pipeline.settings.contenders import ContenderSettings
from ft_pipeline.settings.teacher import PriceSettings, TeacherSettings

PLAIN = "plain"
"""The name of the row without a prompt."""


def run(job: Job) -> dict[str, Any]:
    """Score the contender under each of its prompts.

    config: contender (ContenderSettings), evaluation, general_questions and general_texts (the last two only for the
    fingerprint), answers_sha256 (of a log). handling: endpoint, answers (the path of a log). inputs: conversations,
    base_model (whose tokenizer counts the tokens of all rows).
    """
    contender = contender_of(job)
    settings = job.config["evaluation"]
    all_rows = read_rows(job.inputs["conversations"])
    rows = select_test_rows(all_rows, settings["max_test_rows"])
    items = make_items(rows)
    metrics = AnswerMetrics.of(job.config, items)
    metrics.check_references(items, all_rows)
    tokenizer, parts = (
        load_tokenizer(job.inputs["base_model"]),
        evaluation_parts(rows, job.inputs["base_model"], job.config),
    )
    facts = {
        "technique": None,
        "model": contender.model or contender.answers,
        "endpoint_host": endpoint_teacher.host_of(contender.endpoint) if contender.endpoint else None,
    }
    prices = contender.endpoint.prices if contender.endpoint else PriceSettings()
    scored, records = [], []
    for name, answers in _answers(job, contender, all_rows, items).items():
        samples = answered_samples(tokenizer, items, answers, metrics)
        scored.append(answered_row(name, "contender", facts, prices, answers, samples, fingerprint(parts), metrics))
        records += [{"name": name, **sample} for sample in samples]
    tables: dict[str, list[dict[str, Any]]] = {"samples": records, "general": [], "tasks": [], "validation": []}
    write_scores(job.out, scored, parts, tables, metrics.custom_definitions)
    return {"rows": scored, "test_items": len(items), "test_rows": len(rows)}


def contender_of(job: Job) -> ContenderSettings:
    """Return the contender's settings, merged from the job's config and handling."""
    settings = dict(job.config["contender"])
    if settings.get("endpoint"):
        settings["endpoint"] = job.handling.get("endpoint", {}) | settings["endpoint"]
    return ContenderSettings.model_validate(settings)


def as_teacher(contender: ContenderSettings, max_new_tokens: int) -> TeacherSettings:
    """Return a contender at an endpoint as a teacher without a prompt of its own, which decodes greedily."""
    return TeacherSettings(
        model=contender.model or "", endpoint=contender.endpoint, few_shot=0, max_new_tokens=max_new_tokens
    )


def _answers(
    job: Job, contender: ContenderSettings, rows: Sequence[dict[str, Any]], items: Sequence[Item]
) -> dict[str, list[Answer]]:
    """Return the answers to all items by variant."""
    if contender.answers is not None:
        path, sha256 = Path(job.handling["answers"]), job.config["answers_sha256"]
        return {PLAIN: _logged_answers(contender.name, path, sha256, items)}
    settings = job.config["evaluation"]
    model = as_teacher(contender, settings["max_new_tokens"])
    sender = TeacherPrompt(model, [])
    variants = {name: variant.model_dump() for name, variant in contender.variants.items()} or {PLAIN: {}}
    prompts = {name: Prompt.from_variant(variant, rows, settings["seed"]) for name, variant in variants.items()}
    requests = [
        sender.request(prompt.prepend_to(item.messages[:-1]), tools=item.tools)
        for prompt in prompts.values()
        for item in items
    ]
    answers = requested_answers(job, model, requests)
    count = len(items)
    return {name: answers[number * count : (number + 1) * count] for number, name in enumerate(prompts)}


def _logged_answers(name: str, path: Path, sha256: str, items: Sequence[Item]) -> list[Answer]:
    """Return the logged answer to each item. UserError if an item has none, or if the file changed meanwhile."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise UserError(f"Contender {name}: {path.name} was changed while the run was planned. Run it again.")
    logged: dict[str, tuple[str, list[Call]]] = {}
    for number, line in enumerate(read_jsonl(path), 1):
        question, answer = _question_of(line), _answer_of(line)
        if question is None or answer is None:
            raise UserError(
                f"Contender {name}: line {number} of {path.name} is not a logged answer. Write `answer` (and "
                "`tool_calls` if it calls tools), and `query` or `messages`."
            )
        logged[question] = answer
    missing = [item for item in items if _asked(item.messages[:-1]) not in logged]
    if missing:
        raise UserError(
            f"Contender {name}: {path.name} has no answer to {len(missing)} of {len(items)} test questions, such as "
            f"{missing[0].messages[-2]['content'][:80]!r}. Add them, or make the logged questions the test rows."
        )
    answers = [logged[_asked(item.messages[:-1])] for item in items]
    unknown = {"finish_reason": "stop", "prompt_tokens": None, "seconds": None}
    return [{"answer": text, "calls": calls, **unknown} for text, calls in answers]


def _answer_of(line: Mapping[str, Any]) -> tuple[str, list[Call]] | None:
    """Return the text of a logged answer and its calls of tools; None if it cannot be read."""
    try:
        calls = calls_of_reply(line.get("tool_calls"))
    except ValueError:
        return None
    text = line.get("answer") or ("" if calls else line.get("answer"))
    return (text, calls) if isinstance(text, str) else None


def _question_of(line: Mapping[str, Any]) -> str | None:
    """Return what a logged line asks, as the test items ask it; None if it cannot be read."""
    if isinstance(line.get("query"), str):
        return _asked([{"role": "user", "content": line["query"]}])
    messages = line.get("messages")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) and "role" in turn for turn in messages):
        return None
    return _asked(messages)


def _asked(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the turns before an answer as one text: without system turns, which a provider may have changed."""
    turns = [turn for turn in messages if turn["role"] not in ("system", "developer")]
    return "\n".join(f"{turn['role']}: {' '.join(str(turn.get('content') or '').split())}" for turn in turns)
