"""What rivals learn from and are asked: a question and its reference answer, as plain texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from ft_pipeline.evaluation.items import Item, make_items

MAX_LABELS = 200
"""Most distinct answers that count as few."""
ROWS_PER_LABEL = 2.0
"""Answers of which each appears less often, on average, are free text."""


NO_ROWS = "there are no training rows"


class NoRival(Exception):
    """A rival has no answers, with the reason as a sentence without a full stop."""


@dataclass(frozen=True)
class AnsweredQuestion:
    """An assistant turn of a conversation, with what was asked before it."""

    question: str
    """The turns since the last answer."""
    reference: str
    """The answer as text, with the tools that it calls."""
    content: str
    """The answer without its calls."""
    calls: Sequence[Mapping[str, str]] = ()

    @classmethod
    def of(cls, item: Item) -> "AnsweredQuestion":
        """Return the question and the answer of an item."""
        *before, answer = item.messages
        return cls(question_of(before), item.reference, answer["content"].strip(), item.calls)


def question_of(turns: Sequence[Mapping[str, Any]]) -> str:
    """Return what a conversation asks last: its turns since the last answer, without the system prompt."""
    since = takewhile(lambda turn: turn["role"] not in ("assistant", "system"), reversed(turns))
    return "\n".join(reversed([turn["content"] for turn in since]))


def answered_questions(rows: Sequence[Mapping[str, Any]], split: str) -> list[AnsweredQuestion]:
    """Return the answered questions of a split, in the order of the ids of their conversations."""
    chosen = sorted((dict(row) for row in rows if row["split"] == split), key=lambda row: str(row["id"]))
    return [AnsweredQuestion.of(item) for item in make_items(chosen)]


def has_few_values(answers: Sequence[str]) -> bool:
    """Return whether answers repeat, as labels do."""
    return why_not_few(answers) is None


def why_not_few(answers: Sequence[str]) -> str | None:
    """Return why answers are no labels, as the end of a sentence; None if they are."""
    count = len(set(answers))
    if count > MAX_LABELS:
        return f"the training rows have {count:,} different answers, and at most {MAX_LABELS} are labels"
    if len(answers) < ROWS_PER_LABEL * count:
        return f"the {len(answers):,} training rows have {count:,} different answers, which seldom repeat"
    return None
