"""Send many requests to an endpoint: a limited number at once, within the rate limits. Log the answers on arrival.

Requests come from an iterator, and answers go to the log, so that neither is kept in memory.
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
from typing import Any, Protocol

from ft_pipeline.errors import UserError
from ft_pipeline.job import Reporter
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.rate_limits import Budget, Estimator, RateLimits, TokenEstimate, cost
from ft_pipeline.models.endpoint.responses import RULES, Failure, Reply
from ft_pipeline.settings.teacher import TeacherSettings

FIRST_WAIT = 0.5
MAX_WAIT = 60.0
"""Seconds: the wait before retry k (from 1) is FIRST_WAIT · 2^(k − 1), at most MAX_WAIT, times a random 0.5 to 1."""
MAX_REQUIRED_WAIT = 900.0
"""Seconds: if a server requests a longer wait than this, the run stops."""
FAILURES_WITHOUT_ANSWER = 20
"""If this many prompts fail and none has an answer, the run stops."""
FAILURES_BEFORE_LIMIT = 50
"""From this many failures on, a run above `max_failed` stops before its end, because further requests cost money."""
REQUESTS_PER_YIELD = 1000
"""Requests that the log answers before the event loop runs other tasks."""
MAX_WRONG_MODELS = 3
"""If this many replies come from a wrong model and none from the right one, the run stops."""
ATTEMPTS_IF_EMPTY = 2
"""An empty answer is charged, so the request is retried only once."""


class RequestsStopped(UserError):
    """The run could not send all requests, or too many failed."""

    def __init__(self, reason: str, kept: str, *, by_budget: bool) -> None:
        """reason: without a period at its end. kept: a sentence on the answers that have arrived."""
        super().__init__(f"{reason}. {kept}")
        self.reason = reason
        self.by_budget = by_budget


@dataclass(frozen=True)
class Asked:
    """How messages name what is asked, and its settings."""

    name: str = "teacher"
    settings: str = "teacher"
    budget: str = "teacher.endpoint"
    """The section with `budget`."""


TEACHER = Asked()


@dataclass(frozen=True)
class ChatRequest:
    """A request for one answer."""

    key: str
    """Hex SHA-256 of everything that the answer depends on."""
    messages: Sequence[Mapping[str, Any]]
    sample: int = 0
    """Index among several answers to the same prompt."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """The tools that the model may call, in OpenAI's shape."""

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for message in self.messages)


class ChatEndpoint(Protocol):
    """What the loop needs of an Endpoint."""

    async def ask(self, request: ChatRequest) -> Reply | Failure: ...

    async def close(self) -> None: ...


def send_all(
    connect: Callable[[], ChatEndpoint],
    log: AnswerLog,
    requests: Iterable[ChatRequest],
    total: int,
    teacher: TeacherSettings,
    report: Reporter,
    asked: Asked = TEACHER,
) -> "RequestTotals":
    """Send every request whose answer is not in the log. `connect` is called for the first missing answer.

    RequestsStopped if the run cannot continue (no access, a wrong model, the budget is used up), or if more than
    `max_failed` of `total` have no usable answer. All answers that have arrived are in the log.
    """
    loop = RequestLoop(connect, log, total, teacher, report, asked)
    try:
        asyncio.run(loop.run(iter(requests)))
    except BaseExceptionGroup as group:  # all tasks fail for the same reason: a full disk
        raise group.exceptions[0] from None
    loop.raise_if_failed()
    return loop.totals


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
        self,
        connect: Callable[[], ChatEndpoint],
        log: AnswerLog,
        total: int,
        teacher: TeacherSettings,
        report: Reporter,
        asked: Asked = TEACHER,
    ) -> None:
        assert teacher.endpoint is not None
        self.settings = teacher.endpoint
        self.connect = connect
        self.log = log
        self.total = total
        self.report = report
        self.asked = asked
        self.totals = RequestTotals()
        self.limits = RateLimits(self.settings, self._sleep)
        self.budget = Budget(self.settings.budget, self.settings.prices, log.spent)
        self.estimator = Estimator(teacher.max_new_tokens)
        self.reason_counts: Counter[str] = Counter()
        self.last_messages: dict[str, str] = {}
        """The last message of each reason."""
        self.stop_reason: str | None = None
        """Why the run stops before its end."""
        self.is_over_budget = False
        self.stop_event = asyncio.Event()
        self.pending: set[str] = set()
        """Keys of the requests that are being sent."""
        self.last_reply: float | None = None
        """When the server last replied in a way that shows it is up."""
        self.wrong_models = 0
        self.began = time.monotonic()
        self.jitter = random.Random()

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self, requests: Iterator[ChatRequest]) -> None:
        """Send the requests, and return when all have a result or the run is stopped."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.settings.concurrency):
                group.create_task(self._work(requests))
        await self.log.flush()
        if "endpoint" in vars(self):
            await self.endpoint.close()
        self.totals.seconds = time.monotonic() - self.began

    @cached_property
    def endpoint(self) -> ChatEndpoint:
        return self.connect()

    async def _work(self, requests: Iterator[ChatRequest]) -> None:
        """Process one request after another. `concurrency` tasks do this at once."""
        for number, request in enumerate(requests, 1):
            if self.stop_reason:
                return
            if self.log.has_answer(request.key) or request.key in self.pending:
                self.totals.known += 1  # the same prompt twice: the pending answer is used for both
            elif self.log.has_settled_failure(request.key):
                self._count_known_failure(request)
            else:
                self.pending.add(request.key)
                await self._send_with_retries(request)
                self.pending.discard(request.key)
            if number % REQUESTS_PER_YIELD == 0:
                await asyncio.sleep(0)

    def _count_known_failure(self, request: ChatRequest) -> None:
        entry = self.log.entry(request.key)
        assert entry is not None
        self.totals.failed += 1
        self._count_reason(entry["reason"], entry["message"])

    async def _send_with_retries(self, request: ChatRequest) -> None:
        """Send a request until it is answered, a retry is not useful, or the run stops."""
        began = time.monotonic()
        for attempt in count(1):
            sent = time.monotonic()
            outcome = await self._send_once(request)
            if outcome is None:
                return
            if isinstance(outcome, Reply):
                self.log.write_answer(request.key, outcome)
                self._count_answer()
                return
            retry = not self.stop_reason and self._should_retry(outcome, attempt, began, sent)
            self.log.write_failure(request.key, outcome, final=not retry)
            if not retry:
                self._count_failure(outcome)
                return
            await self._wait_before_retry(outcome, attempt)

    async def _send_once(self, request: ChatRequest) -> Reply | Failure | None:
        """Send a request once. Return None if the run stops before it is sent."""
        estimate = self.estimator.estimate(request.characters)
        await self.limits.admit(estimate)
        budget_reason = await self.budget.reserve(estimate)
        if budget_reason is not None:
            self.is_over_budget |= self.stop_reason is None
            self._stop(f"{budget_reason}. Raise {self.asked.budget}.{budget_reason.split()[0]}")
            return None
        if self.stop_reason:
            self.budget.release(estimate)
            return None
        self.log.write_request(request.key, estimate)
        try:
            outcome = await self.endpoint.ask(request)
        finally:
            self.budget.release(estimate)
        self._record_usage(request, estimate, outcome)
        return outcome

    def _record_usage(self, request: ChatRequest, estimate: TokenEstimate, outcome: Reply | Failure) -> None:
        """Note when the server replied, and correct the estimates by the tokens that it counted."""
        if isinstance(outcome, Reply) or not RULES[outcome.reason].outage:
            self.last_reply = time.monotonic()
        reply = outcome if isinstance(outcome, Reply) else outcome.reply
        if reply is None or reply.prompt_tokens is None:
            return
        self.estimator.add_usage(request.characters, reply.prompt_tokens)
        self.limits.return_unused(estimate, reply.prompt_tokens + (reply.answer_tokens or 0))

    # --- after an answer ----------------------------------------------------------------------------------------------

    def _count_answer(self) -> None:
        self.totals.answered += 1
        self._report_progress()

    def _report_progress(self) -> None:
        prices = self.settings.prices
        spent = self.log.spent
        measures = {
            "answers_per_second": (self.totals.answered + self.totals.failed) / (time.monotonic() - self.began),
            "failed": float(self.totals.failed),
            "tokens": float(spent.tokens),
        }
        if prices.input_per_million or prices.output_per_million:
            measures["cost"] = cost(prices, spent.prompt_tokens, spent.answer_tokens)
        self.report.progress(self.totals.done, self.total, **measures)

    # --- after a failure ----------------------------------------------------------------------------------------------

    def _should_retry(self, failure: Failure, attempt: int, began: float, sent: float) -> bool:
        """Whether to send the request again. began: when its first attempt began; sent: when this attempt was sent.
        Stop the run if too many replies come from a wrong model."""
        if failure.reason == "wrong_model" and not self.totals.answered:
            self.wrong_models += 1
            if self.wrong_models >= MAX_WRONG_MODELS:
                self._stop(
                    f"{failure.message}. Correct {self.asked.settings}.model, or add the model to "
                    f"{self.asked.settings}.endpoint.reply_models"
                )
                return False
        rule = RULES[failure.reason]
        max_attempts = ATTEMPTS_IF_EMPTY if failure.reason == "empty" else self.settings.attempts
        return rule.retry and (attempt < max_attempts or self._server_is_down(failure, began, sent))

    def _server_is_down(self, failure: Failure, began: float, sent: float) -> bool:
        """Whether to wait for the server instead of giving up the prompt: it was up before, but has answered no request
        since this attempt was sent, or it is up and limits the rate."""
        if time.monotonic() - began > self.settings.patience_seconds or self.last_reply is None:
            return False
        return failure.reason == "rate_limited" or (RULES[failure.reason].outage and self.last_reply < sent)

    async def _wait_before_retry(self, failure: Failure, attempt: int) -> None:
        """Wait as long as the server requires, else longer after each attempt. Stop the run if the server requires too
        much."""
        if failure.retry_after is None:
            seconds = min(MAX_WAIT, FIRST_WAIT * 2 ** min(attempt - 1, 20))
            await self._sleep(seconds * self.jitter.uniform(0.5, 1))
        elif failure.retry_after > MAX_REQUIRED_WAIT:
            self._stop(f"The server requires a wait of {failure.retry_after / 60:.0f} minutes ({failure.message})")
        else:
            self.limits.pause(failure.retry_after)
            await self._sleep(self.jitter.uniform(0, FIRST_WAIT))  # otherwise all would retry at the same time

    async def _sleep(self, seconds: float) -> None:
        """Wait for `seconds`, or until the run is stopped."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.stop_event.wait()

    def _count_failure(self, failure: Failure) -> None:
        """Count a prompt that gets no answer in this run, and stop the run if necessary."""
        self.totals.failed += 1
        self._count_reason(failure.reason, failure.message)
        self._report_progress()
        if RULES[failure.reason].stop:
            self._stop(
                f"The {self.asked.name} rejects all requests: {failure.message.rstrip('.')}. Check "
                f"{self.asked.settings}.model, {self.asked.settings}.endpoint and its API key"
            )
        elif failure.reason == "unreachable" and self.last_reply is None:
            self._stop(f"{self.settings.url} cannot be reached ({failure.message}). Check that the server is running")
        elif self.totals.failed >= FAILURES_WITHOUT_ANSWER and not self.totals.answered and not self.totals.known:
            self._stop(f"{self.totals.failed} prompts failed and none was answered. {self._most_common_reason()}")
        elif self.totals.failed >= FAILURES_BEFORE_LIMIT and self._is_over_limit():
            self._stop(self._limit_message())

    def _count_reason(self, reason: str, message: str) -> None:
        self.reason_counts[reason] += 1
        self.last_messages[reason] = message

    def _stop(self, reason: str) -> None:
        """Send no further requests. Pending ones are awaited, because they may be charged."""
        self.stop_reason = self.stop_reason or reason
        self.stop_event.set()

    def raise_if_failed(self) -> None:
        """Raise RequestsStopped if the run was stopped or too many requests failed."""
        if self.stop_reason is None and self._is_over_limit():
            self.stop_reason = self._limit_message()
        if self.stop_reason is not None:
            kept = self.totals.known + self.totals.answered
            raise RequestsStopped(
                self.stop_reason,
                f"{kept:,} of {self.total:,} answers are kept. Run again to request only the missing ones.",
                by_budget=self.is_over_budget,
            )

    def _is_over_limit(self) -> bool:
        return self.totals.failed > self.settings.max_failed * self.total

    def _limit_message(self) -> str:
        limit = self.settings.max_failed
        return (
            f"{self.totals.failed:,} of {self.total:,} prompts have no usable answer, which is over the limit of "
            f"{limit:.0%} ({self.asked.settings}.endpoint.max_failed). {self._most_common_reason()}"
        )

    def _most_common_reason(self) -> str:
        reason, count = self.reason_counts.most_common(1)[0]
        return f"The most common reason is {reason} ({count:,}): {self.last_messages[reason]}"
