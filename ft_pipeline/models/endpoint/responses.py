"""Results of one request to an endpoint, and the rules for failures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Reply:
    """An answer as it arrived."""

    text: str
    finish_reason: str
    """`stop`, or another reason that the server reports."""
    prompt_tokens: int | None = None
    """None if the server reports no usage."""
    answer_tokens: int | None = None
    model: str | None = None
    """The model that the reply names."""
    request_id: str | None = None
    seconds: float = 0.0
    """Time from sending to the last byte."""
    calls: Sequence[Mapping[str, str]] = ()
    """The tools that the answer calls: name and arguments (JSON text)."""


@dataclass(frozen=True)
class Failure:
    """A request that gave no usable answer."""

    reason: str
    """A key of RULES."""
    message: str
    """For users; never contains the API key."""
    retry_after: float | None = None
    """Seconds that the server asks to wait."""
    reply: Reply | None = None
    """The reply, if it is unusable but charged."""


@dataclass(frozen=True)
class Rule:
    """How a failure is handled."""

    meaning: str
    retry: bool = False
    """The same request may succeed later."""
    bill: Literal["no", "perhaps", "yes"] = "no"
    """Whether the provider charges for it; `perhaps` counts as yes against the budget."""
    outage: bool = False
    """The server is the cause, not the prompt: while no other request succeeds, wait for up to patience_seconds."""
    settled: bool = False
    """Another request would fail in the same way, so later runs do not pay for one."""
    stop: bool = False
    """No other request can succeed: the run stops at once."""
    code: str = "teacher_failed"
    """The reason code of its row in the table `quarantine`."""


RULES: dict[str, Rule] = {
    "rate_limited": Rule("HTTP 429", retry=True, outage=True),
    "server_error": Rule("HTTP 5xx, 408 or 409", retry=True, outage=True),
    "timeout": Rule("no complete reply within timeout_seconds", retry=True, bill="perhaps", outage=True),
    "unreachable": Rule("no connection to the server", retry=True, outage=True),
    "connection_lost": Rule("the connection was lost during the reply", retry=True, bill="perhaps", outage=True),
    "broken_reply": Rule("the reply is not the JSON of a chat completion", retry=True, bill="perhaps"),
    "wrong_model": Rule("another model answered", retry=True, bill="yes"),
    "empty": Rule("the answer is empty", retry=True, bill="yes", code="empty_output"),
    "cut_off": Rule("the answer hit max_new_tokens", bill="yes", settled=True, code="answer_cut_off"),
    "filtered": Rule("the provider's content filter removed the answer", bill="yes", settled=True),
    "refused": Rule("HTTP 400, 413 or 422: the server rejects this request"),
    "no_access": Rule("HTTP 401 or 403", stop=True),
    "not_found": Rule("HTTP 404", stop=True),
    "no_credit": Rule("HTTP 402, or the quota is used up", stop=True),
}


@dataclass
class Spending:
    """Totals of requests. Tokens are as the server counts them, or as estimated if it reports none."""

    requests: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    paid: int = 0
    """Requests that the provider charges for: those answered, and those that failed after an answer was generated."""
    perhaps_paid: int = 0
    """Requests with an unknown result: timeouts, lost connections, and those pending when a run was killed."""
    failures: dict[str, int] = field(default_factory=dict)
    """Failed requests by reason."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def add(self, other: "Spending") -> None:
        """Add the totals of `other` to these."""
        for name in ("requests", "answers", "prompt_tokens", "answer_tokens", "paid", "perhaps_paid"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.failures.items():
            self.failures[reason] = self.failures.get(reason, 0) + count
