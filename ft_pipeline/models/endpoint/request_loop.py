"""Send many requests to an endpoint: a limited number at once, within the rate limits. Answers are written on arrival.

Memory does not grow with the number of requests: they come from an iterator, and answers go to the log.
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
from ft_pipeline.settings.teacher import TeacherSettings

FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
"""Seconds: the wait before retry k is FIRST_WAIT · 2^k, at most LONGEST_WAIT, times a random 0.5 to 1 (jitter)."""
LONGEST_ORDERED_WAIT = 900.0
"""Seconds: if a server requests a longer wait than this, the run stops."""
HOPELESS = 20
"""If this many prompts fail and none succeeds, the run stops."""
SURELY_TOO_MANY = 50
"""From this many failures on, a run above `max_failed` stops before its end, because further requests cost money."""
BREATH = 1000
"""Requests that the log answers before the event loop runs other tasks."""
WRONG_MODELS = 3
"""If this many replies come from a wrong model and none from the right one, the run stops."""
EMPTY_ATTEMPTS = 2
"""An empty answer is charged, so the request is retried only once."""


@dataclass(frozen=True)
class ChatRequest:
    """A request for one answer."""

    key: str
    """Hex SHA-256 of everything that the answer depends on."""
    messages: Sequence[Mapping[str, str]]
    sample: int = 0

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for message in self.messages)


class Answerer(Protocol):
    """Interface of an Endpoint."""

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
    """Send every request whose answer is not in the log. `connect` is called for the first missing answer.

    UserError if the run cannot continue (no access, a wrong model, the budget is used up), or if more than `max_failed`
    of `total` have no usable answer. All answers that have arrived are in the log.
    """
    loop = RequestLoop(connect, log, total, teacher, report)
    try:
        asyncio.run(loop.run(iter(questions)))
    except BaseExceptionGroup as group:  # all tasks fail for the same reason: a full disk
        raise group.exceptions[0] from None
    loop.raise_if_failed()
    return loop.asked


@dataclass
class RequestTotals:
    """Counts of requests by result."""

    known: int = 0
    """Requests whose answer was already in the log."""
    answered: int = 0
    failed: int = 0
    """Requests without a usable answer, including those that the log marks as settled failures."""
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.known + self.answered + self.failed


class RequestLoop:
    """Sends the requests of one job, some at a time, and logs each answer."""

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
        """When the server last replied in a way that shows it is up."""
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
        """Process one request after another. `concurrency` tasks do this at once."""
        for number, question in enumerate(questions, 1):
            if self.stopped:
                return
            if self.log.answered(question.key) or question.key in self.under_way:
                self.asked.known += 1  # the same prompt twice: the pending answer is used for both
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
        """Send a request, with retries, until it is answered or fails for good."""
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
        """Send a request once. Return None if the run stops before it is sent."""
        estimate = self.estimator.estimate(question.characters)
        await self.limits.admit(estimate)
        against = await self.budget.reserve(estimate)
        if against is not None:
            self._stop(f"{against}. Raise teacher.endpoint.{against.split()[0]}")
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
                    f"{failure.message}. Correct teacher.model, or add the model to teacher.endpoint.reply_models"
                )
                return False
        rule = RULES[failure.reason]
        attempts = EMPTY_ATTEMPTS if failure.reason == "empty" else self.settings.attempts
        return rule.retry and (attempt < attempts or self._server_is_down(failure, began, sent))

    def _server_is_down(self, failure: Failure, began: float, sent: float) -> bool:
        """Whether to wait for the server instead of giving up the prompt: it was up before, but has answered no request
        since this attempt was sent, or it is up and limits the rate."""
        if time.monotonic() - began > self.settings.patience_seconds or self.last_reply is None:
            return False
        return failure.reason == "rate_limited" or (RULES[failure.reason].outage and self.last_reply < sent)

    async def _wait(self, failure: Failure, attempt: int) -> None:
        if failure.retry_after is None:
            longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(attempt - 1, 20))
            await self._sleep(longest * self.jitter.uniform(0.5, 1))
        elif failure.retry_after > LONGEST_ORDERED_WAIT:
            self._stop(f"The server requires a wait of {failure.retry_after / 60:.0f} minutes ({failure.message})")
        else:
            self.limits.pause(failure.retry_after)
            await self._sleep(self.jitter.uniform(0, FIRST_WAIT))  # otherwise all would retry at the same time

    async def _sleep(self, seconds: float) -> None:
        """Wait for `seconds`, or until the run is stopped."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.stopping.wait()

    def _failed(self, failure: Failure) -> None:
        """Count a prompt that gets no answer in this run, and stop the run if necessary."""
        self.asked.failed += 1
        self._remember(failure.reason, failure.message)
        self._show()
        if RULES[failure.reason].stop:
            self._stop(
                f"The teacher rejects all requests: {failure.message.rstrip('.')}. Check teacher.model, "
                "teacher.endpoint and its API key"
            )
        elif failure.reason == "unreachable" and self.last_reply is None:
            self._stop(f"{self.settings.url} cannot be reached ({failure.message}). Check that the server is running")
        elif self.asked.failed >= HOPELESS and not self.asked.answered and not self.asked.known:
            self._stop(f"{self.asked.failed} prompts failed and none was answered. {self._commonest()}")
        elif self.asked.failed >= SURELY_TOO_MANY and self._too_many():
            self._stop(self._over_the_limit())

    def _remember(self, reason: str, message: str) -> None:
        self.reasons[reason] += 1
        self.example[reason] = message

    def _stop(self, why: str) -> None:
        """Send no further requests. Pending ones are awaited, because they may be charged."""
        self.stopped = self.stopped or why
        self.stopping.set()

    def raise_if_failed(self) -> None:
        """Raise UserError if the run was stopped or too many requests failed."""
        if self.stopped is None and self._too_many():
            self.stopped = self._over_the_limit()
        if self.stopped is not None:
            kept = self.asked.known + self.asked.answered
            raise UserError(
                f"{self.stopped}. {kept:,} of {self.total:,} answers are kept. Run again to request only the missing "
                "ones."
            )

    def _too_many(self) -> bool:
        return self.asked.failed > self.settings.max_failed * self.total

    def _over_the_limit(self) -> str:
        limit = self.settings.max_failed
        return (
            f"{self.asked.failed:,} of {self.total:,} prompts have no usable answer, which is over the limit of "
            f"{limit:.0%} (teacher.endpoint.max_failed). {self._commonest()}"
        )

    def _commonest(self) -> str:
        reason, count = self.reasons.most_common(1)[0]
        return f"The most common reason is {reason} ({count:,}): {self.example[reason]}"
