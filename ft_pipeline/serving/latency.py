"""How long single requests take: measured through a running server, one after the other, as a person would wait."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import make_items, read_rows, select_test_rows
from ft_pipeline.tables.formats.turns import Message, plain

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Latency:
    """Seconds from a request to its whole answer."""

    requests: int
    p50: float
    p95: float
    answer_tokens: float
    """Mean per answer, as the server counts them."""

    def describe(self) -> str:
        """Return the result as a sentence."""
        return (
            f"{self.requests} single requests: half of them took at most {self.p50:.2f} s, 95 % at most {self.p95:.2f} "
            f"s, with {self.answer_tokens:.0f} tokens per answer."
        )


def prompts_of_test_rows(conversations: Path, count: int) -> list[list[Message]]:
    """Return the turns before the first answers of the test split. UserError if the split is empty."""
    items = make_items(select_test_rows(read_rows(conversations), None))
    return [plain(item.messages[:-1]) for item in items[:count]]


def measure(url: str, model: str, prompts: Sequence[Sequence[Message]], max_new_tokens: int) -> Latency:
    """Send the prompts one after the other, after one that warms the server up. UserError if one is refused."""
    seconds, tokens = [], []
    with httpx2.Client(timeout=TIMEOUT_SECONDS) as client:
        for prompt in [prompts[0], *prompts]:
            body = {"model": model, "messages": list(prompt), "max_tokens": max_new_tokens, "temperature": 0}
            started = time.perf_counter()
            reply = client.post(f"{url}/chat/completions", json=body)
            seconds.append(time.perf_counter() - started)
            if reply.status_code != httpx2.codes.OK:
                raise UserError(f"The server refused a request: HTTP {reply.status_code}. {reply.text[:200]}")
            tokens.append((reply.json().get("usage") or {}).get("completion_tokens") or 0)
    p50, p95 = np.quantile(seconds[1:], [0.5, 0.95])
    return Latency(len(prompts), float(p50), float(p95), float(np.mean(tokens[1:])))
