"""Ask an endpoint many questions: a bounded number at once, at the rates allowed, each answer written as it arrives.

Memory does not grow with the number of questions: they come from an iterator, and answers go to the log.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Protocol

from ft_pipeline.errors import UserError
from ft_pipeline.job import Reporter
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.rate_limits import Budget, Estimator, Limits, TokenEstimate, cost
from ft_pipeline.models.endpoint.responses import RULES, Failure, Reply
from ft_pipeline.settings.project import TeacherSettings

FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
"""Seconds: the wait before retry k is FIRST_WAIT · 2^k, at most LONGEST_WAIT, times a random 0.5 to 1 (jitter)."""
LONGEST_ORDERED_WAIT = 900.0
"""A server that asks for a longer wait than this has closed for the day: the run stops."""
HOPELESS = 20
"""So many prompts failed and none succeeded: the run stops."""
SURELY_TOO_MANY = 50
"""From so many failures on, a run that is over `max_failed` stops before its end: what it asks would be paid for."""
BREATH = 1000
"""Questions that the log answers, between two looks at whatever else is to do."""
WRONG_MODELS = 3
"""So many replies came from another model, and none from the right one: the run stops."""
EMPTY_ATTEMPTS = 2
"""An empty answer is paid for; it is tried only once more."""


@dataclass(frozen=True)
class ChatRequest:
    """One answer that is wanted."""

    key: str
    """Hex SHA-256 of all that the answer depends on."""
    messages: Sequence[Mapping[str, str]]
    sample: int = 0

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for message in self.messages)


class Answerer(Protocol):
    """What is asked: an Endpoint."""

    async def ask(self, messages: Sequence[Mapping[str, str]], sample: int = 0) -> Reply | Failure: ...

    async def close(self) -> None: ...


def send_all(
    connect: Callable[[], Answerer],
    log: AnswerLog,
    questions: Iterable[ChatRequest],
    total: int,
    teacher: TeacherSettings,
    report: Reporter,
) -> "RequestTotals":
    """Ask every question that the log does not hold the answer of; `connect` is called when the first is missing.

    UserError where the run cannot go on (no access, a wrong model, the budget spent) or more than `max_failed` of
    `total` have no usable answer; what has arrived by then is in the log.
    """
    asking = RequestLoop(connect, log, total, teacher, report)
    try:
        asyncio.run(asking.run(iter(questions)))
    except BaseExceptionGroup as group:  # all hands fail alike: a full disk
        raise group.exceptions[0] from None
    asking.judge()
    return asking.asked


@dataclass
class RequestTotals:
    """What asking came to."""

    known: int = 0
    """Questions that the log held the answer of."""
    answered: int = 0
    failed: int = 0
    """Questions without a usable answer, those that the log knows to fail included."""
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.known + self.answered + self.failed


class RequestLoop:
    def __init__(
        self, connect: Callable[[], Answerer], log: AnswerLog, total: int, teacher: TeacherSettings, report: Reporter
    ) -> None:
        assert teacher.endpoint is not None
        self.settings = teacher.endpoint
        self.connect = connect
        self.log = log
        self.total = total
        self.report = report
        self.asked = RequestTotals()
        self.limits = Limits(self.settings, self._sleep)
        self.budget = Budget(self.settings.budget, self.settings.prices, log.spent)
        self.estimator = Estimator(teacher.max_new_tokens)
        self.reasons: Counter[str] = Counter()
        self.example: dict[str, str] = {}
        """The last message of each reason."""
        self.stopped: str | None = None
        self.stopping = asyncio.Event()
        self.under_way: set[str] = set()
        self.last_reply: float | None = None
        """When the server last showed that it is up."""
        self.wrong_models = 0
        self.began = time.monotonic()
        self.jitter = random.Random()

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self, questions: Iterator[ChatRequest]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.settings.concurrency):
                group.create_task(self._work(questions))
        await self.log.flush()
        if "endpoint" in vars(self):
            await self.endpoint.close()
        self.asked.seconds = time.monotonic() - self.began

    @cached_property
    def endpoint(self) -> Answerer:
        return self.connect()

    async def _work(self, questions: Iterator[ChatRequest]) -> None:
        """One of the `concurrency` hands: takes the next question when it has dealt with the last."""
        for number, question in enumerate(questions, 1):
            if self.stopped:
                return
            if self.log.answered(question.key) or question.key in self.under_way:
                self.asked.known += 1  # the same prompt twice: the answer that is under way serves both
            elif self.log.hopeless(question.key):
                self._count_known_failure(question)
            else:
                self.under_way.add(question.key)
                await self._settle(question)
                self.under_way.discard(question.key)
            if number % BREATH == 0:
                await asyncio.sleep(0)

    def _count_known_failure(self, question: ChatRequest) -> None:
        entry = self.log.entry(question.key)
        assert entry is not None
        self.asked.failed += 1
        self._remember(entry["reason"], entry["message"])

    async def _settle(self, question: ChatRequest) -> None:
        """Ask until there is an answer, or no hope of one."""
        began = time.monotonic()
        for attempt in count(1):
            sent = time.monotonic()
            outcome = await self._ask_once(question)
            if outcome is None:
                return
            if isinstance(outcome, Reply):
                self.log.write_answer(question.key, outcome)
                self._succeeded()
                return
            again = not self.stopped and self._try_again(outcome, attempt, began, sent)
            self.log.write_failure(question.key, outcome, final=not again)
            if not again:
                self._failed(outcome)
                return
            await self._wait(outcome, attempt)

    async def _ask_once(self, question: ChatRequest) -> Reply | Failure | None:
        """None where the run stops before the question is asked."""
        estimate = self.estimator.estimate(question.characters)
        await self.limits.admit(estimate)
        against = await self.budget.reserve(estimate)
        if against is not None:
            self._stop(f"{against}; raise teacher.endpoint.{against.split()[0]}")
        if self.stopped:
            if against is None:
                self.budget.release(estimate)
            return None
        self.log.write_asked(question.key, estimate)
        try:
            outcome = await self.endpoint.ask(question.messages, question.sample)
        finally:
            self.budget.release(estimate)
        self._learn(question, estimate, outcome)
        return outcome

    def _learn(self, question: ChatRequest, estimate: TokenEstimate, outcome: Reply | Failure) -> None:
        if isinstance(outcome, Reply) or not RULES[outcome.reason].outage:
            self.last_reply = time.monotonic()
        reply = outcome if isinstance(outcome, Reply) else outcome.reply
        if reply is None or reply.prompt_tokens is None:
            return
        self.estimator.learn(question.characters, reply.prompt_tokens)
        self.limits.settle(estimate, reply.prompt_tokens + (reply.answer_tokens or 0))

    # --- after an answer ----------------------------------------------------------------------------------------------

    def _succeeded(self) -> None:
        self.asked.answered += 1
        self._show()

    def _show(self) -> None:
        prices = self.settings.prices
        spent = self.log.spent
        values = {
            "answers_per_second": (self.asked.answered + self.asked.failed) / (time.monotonic() - self.began),
            "failed": float(self.asked.failed),
            "tokens": float(spent.tokens),
        }
        if prices.input_per_million or prices.output_per_million:
            values["cost"] = cost(prices, spent.prompt_tokens, spent.answer_tokens)
        self.report.progress(self.asked.done, self.total, **values)

    # --- after a failure ----------------------------------------------------------------------------------------------

    def _try_again(self, failure: Failure, attempt: int, began: float, sent: float) -> bool:
        if failure.reason == "wrong_model" and not self.asked.answered:
            self.wrong_models += 1
            if self.wrong_models >= WRONG_MODELS:
                self._stop(
                    f"{failure.message}; name that in teacher.model, or allow it in teacher.endpoint.reply_models"
                )
                return False
        rule = RULES[failure.reason]
        attempts = EMPTY_ATTEMPTS if failure.reason == "empty" else self.settings.attempts
        return rule.retry and (attempt < attempts or self._server_is_down(failure, began, sent))

    def _server_is_down(self, failure: Failure, began: float, sent: float) -> bool:
        """Whether to wait for the server, not to give up the prompt: it was up before, and has answered nobody since
        this attempt was sent; or it is up and says that we are too fast."""
        if time.monotonic() - began > self.settings.patience_seconds or self.last_reply is None:
            return False
        return failure.reason == "rate_limited" or (RULES[failure.reason].outage and self.last_reply < sent)

    async def _wait(self, failure: Failure, attempt: int) -> None:
        if failure.retry_after is None:
            longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(attempt - 1, 20))
            await self._sleep(longest * self.jitter.uniform(0.5, 1))
        elif failure.retry_after > LONGEST_ORDERED_WAIT:
            self._stop(f"the server asks to wait {failure.retry_after / 60:.0f} minutes ({failure.message})")
        else:
            self.limits.pause(failure.retry_after)
            await self._sleep(self.jitter.uniform(0, FIRST_WAIT))  # or all would come back in the same moment

    async def _sleep(self, seconds: float) -> None:
        """Wait so long, or until the run is stopped."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.stopping.wait()

    def _failed(self, failure: Failure) -> None:
        """A prompt stays without an answer in this run."""
        self.asked.failed += 1
        self._remember(failure.reason, failure.message)
        self._show()
        if RULES[failure.reason].stop:
            self._stop(f"the teacher cannot be asked: {failure.message}")
        elif failure.reason == "unreachable" and self.last_reply is None:
            self._stop(f"{self.settings.url} cannot be reached ({failure.message}); is the server running?")
        elif self.asked.failed >= HOPELESS and not self.asked.answered and not self.asked.known:
            self._stop(f"{self.asked.failed} prompts failed and none was answered; {self._commonest()}")
        elif self.asked.failed >= SURELY_TOO_MANY and self._too_many():
            self._stop(self._over_the_limit())

    def _remember(self, reason: str, message: str) -> None:
        self.reasons[reason] += 1
        self.example[reason] = message

    def _stop(self, why: str) -> None:
        """No further request; what is under way is waited for, since it may have to be paid."""
        self.stopped = self.stopped or why
        self.stopping.set()

    def judge(self) -> None:
        """UserError where the run was stopped or too much failed."""
        if self.stopped is None and self._too_many():
            self.stopped = self._over_the_limit()
        if self.stopped is not None:
            kept = self.asked.known + self.asked.answered
            raise UserError(
                f"{self.stopped}. {kept:,} of {self.total:,} answers are kept; run again, and only what is missing is "
                "asked for"
            )

    def _too_many(self) -> bool:
        return self.asked.failed > self.settings.max_failed * self.total

    def _over_the_limit(self) -> str:
        limit = self.settings.max_failed
        return (
            f"{self.asked.failed:,} of {self.total:,} prompts have no usable answer, over the limit of {limit:.0%} "
            f"(teacher.endpoint.max_failed); {self._commonest()}"
        )

    def _commonest(self) -> str:
        reason, count = self.reasons.most_common(1)[0]
        return f"the commonest reason is {reason} ({count:,}): {self.example[reason]}"
