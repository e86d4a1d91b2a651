"""Rate limits and budget: requests and tokens per minute, and a budget that is never exceeded."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ft_pipeline.models.endpoint.responses import Spending
from ft_pipeline.settings.teacher import BudgetSettings, EndpointSettings, PriceSettings

Sleep = Callable[[float], Awaitable[None]]

BURST_SECONDS = 1.0
"""After a pause, this much of the unused rate may be used at once. Not more: providers count in short windows, too."""
INITIAL_TOKENS_PER_CHARACTER = 1 / 3
"""Estimated rate before any usage is known. English has about a quarter."""
ESTIMATE_MARGIN = 1.1
"""Factor on the measured tokens per character, so that estimates tend to be too high."""
TEMPLATE_TOKENS = 8
"""Tokens added to each estimated prompt, because the chat template's tokens are not among its characters."""


class Pace:
    """An even rate of some unit per minute (the generic cell rate algorithm, ITU-T I.371)."""

    def __init__(self, per_minute: int | None, sleep: Sleep) -> None:
        self._sleep = sleep
        self._seconds_per_unit = 60 / per_minute if per_minute else 0.0
        self._due = -float("inf")

    async def take(self, amount: float) -> None:
        """Wait until `amount` may be used."""
        if not self._seconds_per_unit:
            return
        now = time.monotonic()
        start = max(self._due, now - BURST_SECONDS)
        self._due = start + amount * self._seconds_per_unit
        if start > now:
            await self._sleep(start - now)

    def give_back(self, amount: float) -> None:
        """Give back an amount that was taken and not used. A negative amount is taken in addition."""
        self._due -= amount * self._seconds_per_unit


@dataclass(frozen=True)
class TokenEstimate:
    """The maximum number of tokens that one request may use."""

    prompt_tokens: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


class Estimator:
    """Estimates the tokens of a prompt from the counts that the server has reported so far."""

    def __init__(self, max_new_tokens: int) -> None:
        self._max_new_tokens = max_new_tokens
        self._characters = self._tokens = 0

    def estimate(self, characters: int) -> TokenEstimate:
        rate = ESTIMATE_MARGIN * self._tokens / self._characters if self._characters else INITIAL_TOKENS_PER_CHARACTER
        return TokenEstimate(int(characters * rate) + TEMPLATE_TOKENS, self._max_new_tokens)

    def add_usage(self, characters: int, prompt_tokens: int) -> None:
        self._characters += characters
        self._tokens += prompt_tokens


class RateLimits:
    """The rate limits of an endpoint. A 429 with a wait time pauses all requests, not only the one that received it."""

    def __init__(self, settings: EndpointSettings, sleep: Sleep) -> None:
        """sleep: waits for the given seconds, or less if the run is stopped."""
        self._sleep = sleep
        self._requests = Pace(settings.requests_per_minute, sleep)
        self._tokens = Pace(settings.tokens_per_minute, sleep)
        self._paused_until = 0.0

    async def admit(self, estimate: TokenEstimate) -> None:
        """Wait until a request of this size may be sent."""
        await self._requests.take(1)
        await self._tokens.take(estimate.tokens)
        await self._sleep(self._paused_until - time.monotonic())

    def return_unused(self, estimate: TokenEstimate, used: int) -> None:
        """Give the tokens that a request did not use back to the rate limit."""
        self._tokens.give_back(estimate.tokens - used)

    def pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


def cost(prices: PriceSettings, prompt_tokens: int, answer_tokens: int) -> float:
    """Return the cost in the currency of the prices."""
    return (prompt_tokens * prices.input_per_million + answer_tokens * prices.output_per_million) / 1_000_000


class Budget:
    """The remaining budget. A request reserves its maximum cost, so that the limit is never exceeded."""

    def __init__(self, limits: BudgetSettings, prices: PriceSettings, spent: Spending) -> None:
        """spent: totals of all runs so far. The caller keeps them up to date."""
        self._limits = limits
        self._prices = prices
        self._spent = spent
        self._reserved = Spending()
        self._pending = 0
        self._changed = asyncio.Event()

    async def reserve(self, estimate: TokenEstimate) -> str | None:
        """Reserve the maximum of a request. If the budget does not allow it, wait for pending requests, which may use
        less than they reserved. Return None, or why the budget does not allow it."""
        while (reason := self._why_exceeded(estimate)) is not None and self._pending:
            self._changed.clear()
            await self._changed.wait()
        if reason is None:
            self._pending += 1
            self._change_reserved(estimate, 1)
        return reason

    def release(self, estimate: TokenEstimate) -> None:
        """Release the reservation of a request that has ended. What it used is in `spent`."""
        self._pending -= 1
        self._change_reserved(estimate, -1)
        self._changed.set()

    def _change_reserved(self, estimate: TokenEstimate, sign: int) -> None:
        self._reserved.prompt_tokens += sign * estimate.prompt_tokens
        self._reserved.answer_tokens += sign * estimate.answer_tokens

    def _why_exceeded(self, estimate: TokenEstimate) -> str | None:
        """Return why the request would exceed the budget, or None. The reason begins with the name of the setting."""
        prompt = self._spent.prompt_tokens + self._reserved.prompt_tokens + estimate.prompt_tokens
        answer = self._spent.answer_tokens + self._reserved.answer_tokens + estimate.answer_tokens
        if self._limits.tokens is not None and prompt + answer > self._limits.tokens:
            used = self._spent.tokens
            return f"budget.tokens {self._limits.tokens:,} leaves no room for another request ({used:,} used)"
        if self._limits.money is not None and cost(self._prices, prompt, answer) > self._limits.money:
            spent = cost(self._prices, self._spent.prompt_tokens, self._spent.answer_tokens)
            return f"budget.money {self._limits.money:g} leaves no room for another request ({spent:.4g} used)"
        return None
