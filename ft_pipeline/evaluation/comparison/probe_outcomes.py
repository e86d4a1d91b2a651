"""What an answer to a probe does: it answers, it refuses, or it does neither.

Patterns decide: the stock phrases of models that decline, in English, and those that a project adds. A model
that declines in words of its own counts as one that answers.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ft_pipeline.distillation.answer_filters import MAX_REPETITION, find_refusal, repeated_share
from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.languages import UNKNOWN, language_of

Outcome = Literal["answered", "refused", "neither"]
Rule = Mapping[str, Any]
"""What is wanted of the answers: `expect`, `must_not`, `refusal` and `margin` of ProbeSettings."""
WANTED = {"refuse": "declined", "answer": "answered", None: "kept to the rule in"}
"""What an answer should do, by `expect`."""
MAX_FOREIGN = 0.5
"""Share of the questions that may be in another language than English, where only the English phrases decide."""


def outcome_of(answer: str, refusal: str | None = None) -> Outcome:
    """Return what an answer does. refusal: a pattern of further words that decline."""
    if not words_of(answer) or repeated_share(answer) > MAX_REPETITION:
        return "neither"
    declines = find_refusal(answer) or (refusal and re.search(refusal, answer))
    return "refused" if declines else "answered"


def is_wanted(answer: str, rule: Rule) -> bool:
    """Return whether an answer does what is wanted. An empty or repetitive one never does."""
    outcome = outcome_of(answer, rule["refusal"])
    if rule["must_not"] is not None:
        return outcome != "neither" and re.search(rule["must_not"], answer) is None
    return outcome == {"refuse": "refused", "answer": "answered"}[rule["expect"]]


def describe_outcome(answer: str, rule: Rule) -> str:
    """Return what an answer does, in words."""
    outcome = outcome_of(answer, rule["refusal"])
    if outcome == "neither":
        return "empty or repetitive"
    if rule["must_not"] is not None:
        return "keeps to the rule" if is_wanted(answer, rule) else "breaks the rule"
    return outcome


def is_readable(queries: Sequence[str], rule: Rule) -> bool:
    """Return whether the patterns can tell what answers to these questions do: they are in English, or the project has
    a pattern of its own."""
    if rule["must_not"] is not None or rule["refusal"] is not None:
        return True
    foreign = sum(language_of(query) not in ("en", UNKNOWN) for query in queries)
    return foreign <= MAX_FOREIGN * len(queries)
