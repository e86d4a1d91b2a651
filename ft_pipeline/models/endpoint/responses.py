"""What one request to an endpoint came to, and what follows from it."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Reply:
    """An answer as it arrived."""

    text: str
    finish_reason: str
    """`stop`, or what the server said instead."""
    prompt_tokens: int | None = None
    """None where the server reports no usage."""
    answer_tokens: int | None = None
    model: str | None = None
    """The model that the reply names."""
    request_id: str | None = None
    seconds: float = 0.0
    """From sending to the last byte."""


@dataclass(frozen=True)
class Failure:
    """A request that gave no usable answer."""

    reason: str
    """A key of RULES."""
    message: str
    """For people; never holds the key."""
    retry_after: float | None = None
    """Seconds that the server asks to wait."""
    reply: Reply | None = None
    """What arrived, where it has to be paid for though it is of no use."""


@dataclass(frozen=True)
class Rule:
    """What follows from a failure."""

    meaning: str
    retry: bool = False
    """The same request may go better a little later."""
    bill: Literal["no", "perhaps", "yes"] = "no"
    """Whether the provider charges for it; `perhaps` counts as yes against the budget."""
    outage: bool = False
    """It says something of the server and nothing of the prompt: while nothing else succeeds, patience is tried."""
    settled: bool = False
    """Another request would end the same, so that later runs do not pay for one."""
    stop: bool = False
    """No other request can go better: the run stops at once."""
    code: str = "teacher_failed"
    """The reason code of its row in the table of what was set aside."""


RULES: dict[str, Rule] = {
    "rate_limited": Rule("HTTP 429", retry=True, outage=True),
    "server_error": Rule("HTTP 5xx, 408 or 409", retry=True, outage=True),
    "timeout": Rule("no whole reply within timeout_seconds", retry=True, bill="perhaps", outage=True),
    "unreachable": Rule("no connection to the server", retry=True, outage=True),
    "connection_lost": Rule("the connection broke before the reply was whole", retry=True, bill="perhaps", outage=True),
    "broken_reply": Rule("the reply is not the JSON of a chat completion", retry=True, bill="perhaps"),
    "wrong_model": Rule("another model answered", retry=True, bill="yes"),
    "empty": Rule("the answer is empty", retry=True, bill="yes", code="empty_output"),
    "cut_off": Rule("the answer hit max_new_tokens", bill="yes", settled=True, code="answer_cut_off"),
    "filtered": Rule("the provider's content filter took the answer", bill="yes", settled=True),
    "refused": Rule("HTTP 400, 413 or 422: the server does not take this request"),
    "no_access": Rule("HTTP 401 or 403", stop=True),
    "not_found": Rule("HTTP 404", stop=True),
    "no_credit": Rule("HTTP 402, or a quota that is used up", stop=True),
}


@dataclass
class Spending:
    """What requests came to, added up; tokens as the server counts them, or as estimated where it does not say."""

    requests: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    paid: int = 0
    """Requests that the provider charges for: those answered, and those that failed after an answer was made."""
    perhaps_paid: int = 0
    """Requests without an end: timeouts, lost connections, and what was under way when a run was killed."""
    failures: dict[str, int] = field(default_factory=dict)
    """Failed requests by reason."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def add(self, other: "Spending") -> None:
        """Add another's sums to these."""
        for name in ("requests", "answers", "prompt_tokens", "answer_tokens", "paid", "perhaps_paid"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.failures.items():
            self.failures[reason] = self.failures.get(reason, 0) + count
