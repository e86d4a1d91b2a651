"""The worker for `teacher_scores`: score the teacher's answers to the test prompts. Its losses are unknown.

The teacher has the same limits as every other row: greedy decoding, and at most evaluation.max_new_tokens tokens. The
answers of an endpoint are written to the teacher's log, so that they are paid for only once.
"""

from collections.abc import Sequence
from typing import Any

from ft_pipeline.distillation import endpoint_teacher
from ft_pipeline.distillation.teacher import teacher_settings
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item, make_items, read_rows, select_test_rows
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.scoring.answer_limit import answer_limit
from ft_pipeline.evaluation.scoring.answered import Answer, answered_row, answered_samples, requested_answers
from ft_pipeline.evaluation.scoring.fingerprint import evaluation_parts, fingerprint
from ft_pipeline.evaluation.scoring.records import write_scores
from ft_pipeline.job import Job
from ft_pipeline.models.chat import render
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.decoding.generate import generate
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.models.tool_calls import read_answer
from ft_pipeline.settings.teacher import PriceSettings

ROW_NAME = "teacher"
"""The teacher's name in scores.json."""


def run(job: Job) -> dict[str, Any]:
    """Score the teacher on every test item.

    config: teacher (TeacherSettings), name (the teacher's), prices (PriceSettings), evaluation, general_questions and
    general_texts (the last two only for the fingerprint).
    inputs: conversations, base_model (whose tokenizer counts the tokens of all rows), and `teacher_model` if there is
    no endpoint. Raises UserError if the teacher cannot be reached or fails too often.
    """
    settings = job.config["evaluation"]
    all_rows = read_rows(job.inputs["conversations"])
    rows = select_test_rows(all_rows, settings["max_test_rows"])
    items = make_items(rows)
    answer_metrics = AnswerMetrics.of(job.config, items)
    answer_metrics.check_references(items, all_rows)
    scoring_overrides = {"temperature": 0.0, "max_new_tokens": settings["max_new_tokens"], "answers_per_prompt": 1}
    teacher = teacher_settings(job).model_copy(update=scoring_overrides)
    teacher_prompt = TeacherPrompt.of(teacher, job.inputs["conversations"])
    answers = (
        _endpoint_answers(job, teacher_prompt, items)
        if teacher.endpoint
        else _local_answers(job, teacher_prompt, items)
    )
    samples = answered_samples(load_tokenizer(job.inputs["base_model"]), items, answers, answer_metrics)
    parts = evaluation_parts(rows, job.inputs["base_model"], job.config)
    facts = {
        "technique": None,
        "teacher": job.config["name"],
        "endpoint_host": endpoint_teacher.host_of(teacher.endpoint) if teacher.endpoint else None,
    }
    prices = PriceSettings.model_validate(job.config["prices"])
    row = answered_row(ROW_NAME, "teacher", facts, prices, answers, samples, fingerprint(parts), answer_metrics)
    named_samples = [{"name": ROW_NAME, **sample} for sample in samples]
    records: dict[str, list[dict[str, Any]]] = {"samples": named_samples, "general": [], "tasks": [], "validation": []}
    write_scores(job.out, [row], parts, records, answer_metrics.custom_definitions)
    return {"rows": [row], "test_items": len(items), "test_rows": len(rows)}


def _endpoint_answers(job: Job, teacher_prompt: TeacherPrompt, items: Sequence[Item]) -> list[Answer]:
    """Return the endpoint's answers. A failed request counts as an empty answer."""
    requests = [teacher_prompt.request(item.messages[:-1], tools=item.tools) for item in items]
    return requested_answers(job, teacher_prompt.teacher, requests)


def _local_answers(job: Job, teacher_prompt: TeacherPrompt, items: Sequence[Item]) -> list[Answer]:
    """Return the answers of a model on this machine."""
    folder = job.inputs["teacher_model"]
    tokenizer, model = load_tokenizer(folder), load_model(folder, job.device)
    speed_up_products(model, trains=False)
    try:
        prompts = [
            render(
                tokenizer, teacher_prompt.full_prompt(item.messages[:-1]), add_generation_prompt=True, tools=item.tools
            )
            for item in items
        ]
    except UserError as error:
        reason, _, _ = str(error).partition(". ")
        raise UserError(
            f"The teacher {job.config['name']} cannot be scored: {reason}. Choose another teacher.model, or set "
            "teacher.in_comparison to false."
        ) from error
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
    turns = [
        read_answer(tokenizer, answer.raw, item.tools) if item.uses_tools else {"content": answer.text}
        for item, answer in zip(items, answers, strict=True)
    ]
    return [
        {
            "answer": turn["content"],
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
            "seconds": None,
            "calls": turn.get("tool_calls", []),
        }
        for turn, answer in zip(turns, answers, strict=True)
    ]
