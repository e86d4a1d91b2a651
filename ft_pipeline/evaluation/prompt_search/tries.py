"""What was tried: a line for each prompt, with its scores on the validation rows; and what that says in a sentence."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.prompt_search.space import Values, Variant

TRIES_FILE = "tries.jsonl"
"""The tries of a finished search: a line for each."""
WRITTEN = "written #"
"""Begins the names of the prompts whose instruction a reflector wrote."""


@dataclass(frozen=True)
class Measured:
    """What the validation rows say of a prompt."""

    rank_key: float
    """The metric that decides, turned so that lower is better."""
    score: float
    """The same as people read it."""
    nats: float
    """Of the reference answers, per byte (per token if the tokenizer loses some of them): decides between equals."""
    prompt_tokens: float
    """Mean number of tokens of a prompt: the shorter of two equal ones is better."""


@dataclass(frozen=True)
class Try:
    """A prompt with its scores."""

    number: int
    """From 1."""
    name: str | None
    """Of a prompt that was there before; None: it was searched."""
    variant: Variant
    measured: Measured
    values: Values = field(default_factory=dict)
    """Empty for a prompt that was there before."""

    @property
    def order(self) -> tuple[float, ...]:
        """Sorts the better prompt first; of equal ones, the older."""
        found = self.measured
        return found.rank_key, found.nats, found.prompt_tokens, self.number

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "measured": vars(self.measured)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Try":
        return cls(**{**document, "measured": Measured(**document["measured"])})


def is_written(tried: Try) -> bool:
    """Return whether a reflector wrote the instruction of a prompt."""
    return (tried.name or "").startswith(WRITTEN)


def best_of(tries: Sequence[Try]) -> Try:
    """Return the best prompt."""
    return min(tries, key=lambda each: each.order)


def read_tries(path: Path) -> list[Try]:
    """Return the tries of a file. A last line that a killed process did not finish is cut off."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [Try.from_json(json.loads(line)) for line in whole.splitlines()]


def add_try(path: Path, tried: Try) -> None:
    """Append a try to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(tried.to_json(), ensure_ascii=False) + "\n")


def describe(summary: dict[str, Any]) -> str:
    """Return what a search found, in a sentence or three."""
    given = "" if summary["of_given"] is None else f", the best given prompt has {summary['of_given']:.3g}"
    asked = f"{summary['rows']} validation answers"
    if summary.get("train_rows"):
        asked = f"{summary['rows']} answers to validation rows, and to train rows that no prompt shows"
    ended = f" It ended there: {summary['ended']}." if summary["ended"] else ""
    return (
        f"The best of {summary['tries']} prompts is `{summary['row']}`: {summary['metric']} {summary['score']:.3g} on "
        f"{asked}. No prompt has {summary['of_plain']:.3g}{given}.{ended}"
    )
