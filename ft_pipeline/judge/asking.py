"""Ask a judge about pairs of answers, in both orders. Replies come from its log, so that each is paid for once."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from ft_pipeline.distillation import endpoint_teacher
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.judge.pairs import Pair
from ft_pipeline.judge.prompt import DEFAULT_RUBRIC, judge_prompt
from ft_pipeline.judge.settings import MAX_REPLY_TOKENS, JudgeSettings
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.rate_limits import cost
from ft_pipeline.models.endpoint.request_loop import Asked, ChatRequest, RequestsStopped
from ft_pipeline.models.endpoint.responses import RULES
from ft_pipeline.settings.teacher import TeacherSettings

Verdict = Literal["1", "2", "same"]
VERDICTS: tuple[Verdict, ...] = ("1", "2", "same")
_DECODER = json.JSONDecoder()


FIRST_REPLIES = 20
"""If the first replies are no verdicts, all of them, nothing further is asked."""
LETTERS_PER_TOKEN = 4
"""Of English, in most vocabularies: for the estimate of a bill."""
ASKED = Asked("judge", "evaluation.judge", "evaluation.judge")


@dataclass(frozen=True)
class Question:
    """A pair of answers in one order."""

    pair: Pair
    order: int
    """1: the candidate's answer is shown first; 2: the rival's."""
    again: bool = False
    """Whether an earlier reply was no verdict."""


@dataclass(frozen=True)
class Outcome:
    """What a judge replied to a question."""

    verdict: Verdict | None = None
    """None: no reply has a verdict."""
    entries: Sequence[dict[str, Any]] = ()
    """The replies in the log: one, or two if the first was no verdict."""
    failure: str | None = None
    """The reason of the last failure, as a key of RULES, if there is no reply."""

    @property
    def is_known(self) -> bool:
        """Whether the question is answered, be it without a verdict."""
        return self.verdict is not None or len(self.entries) == 2

    def value(self, order: int) -> float:
        """Return the score of the candidate: 1, ½ or 0."""
        if self.verdict in (None, "same"):
            return 0.5
        return float(self.verdict == str(order))


@dataclass(frozen=True)
class Judge:
    """A judge with its rubric and the task."""

    settings: JudgeSettings
    task: str

    @cached_property
    def teacher(self) -> TeacherSettings:
        """The judge as a model that is sent requests."""
        return self.settings.as_teacher()

    @property
    def host(self) -> str:
        return endpoint_teacher.host_of(self.settings.endpoint)

    @property
    def rubric(self) -> str:
        return self.settings.rubric or DEFAULT_RUBRIC

    def request(self, question: Question) -> ChatRequest:
        """Return the request for a question. Its key is a hash of the model and of all that it is sent."""
        answers = question.pair.answers if question.order == 1 else question.pair.answers[::-1]
        prompt = judge_prompt(self.task, self.rubric, question.pair.item, answers, again=question.again)
        return TeacherPrompt(self.teacher, []).request(prompt)

    def outcome(self, log: AnswerLog, question: Question) -> Outcome:
        """Return what the log knows of a question."""
        first = _replied(log.entry(self.request(question).key))
        if first.verdict is not None or not first.entries:
            return first
        second = _replied(log.entry(self.request(replace(question, again=True)).key))
        return replace(second, entries=(*first.entries, *second.entries))

    def plan(self, pairs: Sequence[Pair]) -> str:
        """Return what is sent, where to, and about what it costs."""
        requests = [self.request(question) for pair in pairs for question in questions_of(pair)]
        asked = {request.key: request for request in requests}  # several rows may give the same answers
        letters = sum(request.characters for request in asked.values())
        prompts, replies = letters // LETTERS_PER_TOKEN, len(asked) * MAX_REPLY_TOKENS
        money = cost(self.settings.endpoint.prices, prompts, replies)
        bill = f"at most about {money:.2f} by its prices" if money else "no prices given"
        return (
            f"judge {self.settings.model}: up to {len(asked):,} calls to {self.host} with test rows and answers, about "
            f"{prompts + replies:,} tokens ({prompts:,} of prompts, at most {replies:,} of replies), {bill}"
        )


@dataclass(frozen=True)
class Stop:
    """Why a judge was not asked everything."""

    reason: str
    """Without a period at its end."""
    is_final: bool
    """Whether the same happens in the next run, unless a setting changes."""
    is_nonsense: bool = False
    """Whether its replies are no verdicts."""


def questions_of(pair: Pair) -> list[Question]:
    """Return the pair in both orders; none if the answers are equal."""
    return [] if pair.is_identical else [Question(pair, 1), Question(pair, 2)]


def ask(judge: Judge, pairs: Sequence[Pair], log: AnswerLog, job: Job) -> Stop | None:
    """Ask about the pairs whose replies are not in the log, in their order. Return why it stopped before the end."""
    first = [question for pair in pairs[:FIRST_REPLIES] for question in questions_of(pair)][:FIRST_REPLIES]
    every = (question for pair in pairs for question in questions_of(pair))
    try:
        _send(judge, first, len(first), log, job)
        if first and all(judge.outcome(log, question).verdict is None for question in first):
            reason = f"none of its first {len(first)} replies is a verdict. Choose another evaluation.judge.model"
            return Stop(reason, is_final=True, is_nonsense=True)
        _send(judge, every, 2 * sum(not pair.is_identical for pair in pairs), log, job)
    except RequestsStopped as stopped:
        return Stop(stopped.reason, stopped.by_budget)
    except UserError as error:
        return Stop(str(error).rstrip("."), False)
    return None


def _send(
    judge: Judge, questions: Iterator[Question] | Sequence[Question], total: int, log: AnswerLog, job: Job
) -> None:
    """Send questions, and once more those whose reply is no verdict."""
    sent: list[Question] = []

    def requests() -> Iterator[ChatRequest]:
        for question in questions:
            sent.append(question)
            yield judge.request(question)

    endpoint_teacher.send_requests(log, requests(), total, judge.teacher, job, ASKED)
    outcomes = [(question, judge.outcome(log, question)) for question in sent]
    unclear = [question for question, outcome in outcomes if outcome.verdict is None and len(outcome.entries) == 1]
    again = [replace(question, again=True) for question in unclear]
    endpoint_teacher.send_requests(log, map(judge.request, again), len(again), judge.teacher, job, ASKED)


def _replied(entry: dict[str, Any] | None) -> Outcome:
    """Return the outcome of one log entry. A reply that was cut off or removed by a filter is one without a verdict."""
    if entry is None:
        return Outcome()
    if entry["event"] == "failed" and not RULES[entry["reason"]].settled:
        return Outcome(failure=entry["reason"])
    return Outcome(read_verdict(entry["answer"]), (entry,))


def read_verdict(reply: str) -> Verdict | None:
    """Return the verdict of a reply; None unless it has exactly one.

    Text around the JSON object is ignored, such as a code fence. A brace that begins no JSON object makes the reply
    unreadable: what follows it may be a quotation from an answer.
    """
    try:
        found = {_verdict_of(document) for document in _objects_in(reply) if "better" in document}
    except (ValueError, RecursionError):
        return None
    return found.pop() if len(found) == 1 else None


def _verdict_of(document: dict[str, Any]) -> Verdict | None:
    value = document["better"]
    text = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    return next((verdict for verdict in VERDICTS if text in (verdict, f"answer {verdict}")), None)


def _objects_in(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in a text. ValueError at a brace that begins none."""
    start = text.find("{")
    while start >= 0:
        document, end = _DECODER.raw_decode(text, start)
        yield document
        start = text.find("{", end)
