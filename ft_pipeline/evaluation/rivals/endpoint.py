"""A contender behind an endpoint, under each of its prompts. Also what every rival behind one needs."""

import os
from collections.abc import Iterator, Sequence

from ft_pipeline.distillation import endpoint_teacher
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.evaluation.rivals.questions import PLAIN, Answer, Answered, Questions
from ft_pipeline.evaluation.scoring.answer_limit import limit_of_references
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.job import Job
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.request_loop import ChatRequest
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.settings.contenders import ContenderSettings
from ft_pipeline.settings.teacher import TeacherSettings


def answers(questions: Questions) -> Iterator[Answered]:
    """Yield the answers under each prompt variant; without variants, those without a prompt. It decodes greedily.

    config: contender (ContenderSettings). handling: endpoint.
    """
    job, items = questions.job, questions.items
    settings, given = job.config["evaluation"], job.config["contender"]
    endpoint = job.handling.get("endpoint", {}) | given["endpoint"]
    contender = ContenderSettings.model_validate({**given, "endpoint": endpoint})
    assert contender.endpoint is not None
    limit = longest_answer(questions)
    model = TeacherSettings(model=contender.model or "", endpoint=contender.endpoint, few_shot=0, max_new_tokens=limit)
    variants = {name: variant.model_dump() for name, variant in contender.variants.items()} or {PLAIN: {}}
    prompts = {
        name: Prompt.from_variant(variant, questions.rows, settings["seed"]) for name, variant in variants.items()
    }
    sender = TeacherPrompt(model, [])
    requests = [
        sender.request(prompt.prepend_to(item.messages[:-1]), tools=item.tools)
        for prompt in prompts.values()
        for item in items
    ]
    found, count = requested_answers(job, model, requests), len(items)
    host = endpoint_teacher.host_of(contender.endpoint)
    facts = {"technique": None, "model": contender.model, "endpoint_host": host}
    for number, name in enumerate(prompts):
        of_prompt = found[number * count : (number + 1) * count]
        yield Answered(name, "contender", of_prompt, facts, contender.endpoint.prices)


def longest_answer(questions: Questions) -> int:
    """Return the limit of an answer, in tokens of the model that counts them."""
    limit: int | None = questions.job.config["evaluation"]["max_new_tokens"]
    if limit is not None:
        return limit
    tokenizer = load_tokenizer(questions.job.inputs["base_model"])
    return limit_of_references(tokenizer, [item.written for item in questions.items])


def requested_answers(job: Job, model: TeacherSettings, requests: Sequence[ChatRequest]) -> list[Answer]:
    """Return the answers of an endpoint from its log, after requesting those that are missing: each is paid for once.

    Then the key of the endpoint is removed from the environment: the project's metrics run next in this process.
    Raises UserError if the endpoint cannot be reached or fails too often. A failed request counts as an empty answer.
    """
    with AnswerLog.open(endpoint_teacher.log_folder(job.shared or job.work, model), job.report.log) as log:
        endpoint_teacher.send_requests(log, requests, len(requests), model, job)
        for name in job.secrets:
            os.environ.pop(name, None)
        return [{**endpoint_teacher.answer_columns(log, request), **_seconds(log, request.key)} for request in requests]


def _seconds(log: AnswerLog, key: str) -> dict[str, float | None]:
    entry = log.entry(key)
    return {"seconds": entry["seconds"] if entry else None}
