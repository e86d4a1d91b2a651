"""The teacher, at an endpoint or on this machine. Its losses are unknown.

The teacher has the same limits as every other row: greedy decoding, and at most evaluation.max_new_tokens tokens. The
answers of an endpoint are written to the teacher's log, so that they are paid for only once.
"""

from collections.abc import Iterator, Sequence

from ft_pipeline.distillation import endpoint_teacher
from ft_pipeline.distillation.teacher import teacher_settings
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.rivals.endpoint import longest_answer, requested_answers
from ft_pipeline.evaluation.rivals.questions import Answer, Answered, Questions
from ft_pipeline.evaluation.scoring.answer_limit import answer_limit
from ft_pipeline.job import Job
from ft_pipeline.models.chat import render
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.decoding.generate import generate
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.models.tool_calls import read_answer
from ft_pipeline.settings.teacher import PriceSettings

ROW_NAME = "teacher"
"""The teacher's name in scores.json."""


def answers(questions: Questions) -> Iterator[Answered]:
    """Yield the teacher's answers. config: teacher (TeacherSettings), name (the teacher's), prices (PriceSettings).
    inputs: `teacher_model`, if there is no endpoint.

    Raises UserError if the teacher cannot be reached or fails too often.
    """
    job, items = questions.job, questions.items
    limit = longest_answer(questions)
    scoring_overrides = {"temperature": 0.0, "max_new_tokens": limit, "answers_per_prompt": 1}
    teacher = teacher_settings(job).model_copy(update=scoring_overrides)
    prompt = TeacherPrompt.of(teacher, job.inputs["conversations"])
    host = endpoint_teacher.host_of(teacher.endpoint) if teacher.endpoint else None
    if teacher.endpoint:
        requests = [prompt.request(item.messages[:-1], tools=item.tools) for item in items]
        found = requested_answers(job, teacher, requests)
    else:
        found = _local_answers(job, prompt, items)
    facts = {"technique": None, "teacher": job.config["name"], "endpoint_host": host}
    yield Answered(ROW_NAME, "teacher", found, facts, PriceSettings.model_validate(job.config["prices"]))


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
    references = [item.written for item in items]
    given, counted_by = job.config["evaluation"]["max_new_tokens"], load_tokenizer(job.inputs["base_model"])
    limit = answer_limit(given, tokenizer, references, counted_by)
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
