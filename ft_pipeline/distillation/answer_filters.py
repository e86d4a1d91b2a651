"""Filters for one answer of a teacher, each with its reason code and its threshold.

No torch here: the asset that applies the filters runs in Dagster's process.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import (
    PLACEHOLDER_PATTERN,
    REFUSAL_PATTERN,
    SPECIAL_TOKEN_PATTERN,
    is_empty,
    normalise,
    plain_words,
)

REPETITION_WORDS = 3
MAX_REPETITION = 0.15
"""Largest allowed share of an answer's 3-word sequences that are repeats.

Of 252 davinci answers (239 known to be degenerate), 250 are above it; of the other two, one counts upwards and one
lists translations. Of 999 Alpaca answers, 18 are above it (tables, sums); of 13,481 answers from two sets of support
conversations, one; of this project's own answers, none.
"""
COPY_WORDS = 3
MAX_COPY = 0.8
"""Largest allowed share of an answer's 3-word sequences from the customer's message. Rewriting tasks reach 0.7."""
MAX_EXAMPLE_COPY = 0.5
"""The same for the system prompt and each example: their texts answer other questions."""
LENGTH_PERCENTILES = (1.0, 99.0)
LENGTH_SLACK = (0.5, 1.25)
"""An answer must not be shorter than half the 1st percentile of the human answers (in characters), or longer than 1.25
times the 99th."""
MIN_HUMAN_ANSWERS = 20
"""With fewer human answers, the percentiles are not reliable, and lengths are not checked."""

STOCK_PHRASES = re.compile(
    r"\bas an? (?:[\w-]+ ){0,4}(?:ai|assistant|chatbot|(?:language )?model|agent|representative|customer|tool),? "
    r"(?:model )?i\b"
    r"|\bi(?:['’]m| am) (?:just |only )?an? (?:[\w-]+ ){0,3}(?:ai|assistant|chatbot|language model|tool)\b"
    r"|\bi(?:['’]m| am) (?:unable|not able) to (?:assist|help|access|process|provide)\b"
    r"|\bi (?:do not|don['’]t) have (?:the |any )?(?:ability|capability|access)\b"
    r"|\bas a (?:large )?language model\b"
    r"|\bi (?:cannot|can['’]t) (?:assist|help|comply|fulfil+) (?:you )?(?:with )?(?:that|this|your|the)\b",
    re.IGNORECASE,
)
"""Stock phrases of a model that declines a task that the shop's staff would do. Broader than for human rows."""
HOLE_PATTERN = re.compile(
    r"\[(?:your|insert|customer|company|order|product|name|date|link|phone|e-?mail|address|tracking)\b[^\]\n]{0,40}\](?!\()"
    r"|<(?:your|insert|customer|order)[ _-][^>\n]{0,40}>",
    re.IGNORECASE,
)
"""Placeholders in square or angle brackets, such as [Your Name]. PLACEHOLDER_PATTERN of the tables matches {{…}}."""

_WORD = re.compile(r"\w+|[^\x00-\u2fff\s]")
_LONG_NUMBER = re.compile(r"\d{4,}")
_PLACEHOLDER, _SPECIAL, _REFUSAL = map(re.compile, (PLACEHOLDER_PATTERN, SPECIAL_TOKEN_PATTERN, REFUSAL_PATTERN))


@dataclass(frozen=True)
class Context:
    """What an answer is compared with."""

    system_prompt: str
    examples: Sequence[Sequence[Mapping[str, str]]]
    """The fixed few-shot examples in the teacher's prompt."""
    length_range: tuple[int, int] | None
    """Smallest and largest allowed length of an answer, in characters. None: lengths are not checked."""


def check_answer(answer: Mapping[str, Any], context: Context) -> Fault | None:
    """The first fault of one row of answers.parquet, or None."""
    return next((fault for check in CHECKS if (fault := check(answer, context))), None)


def length_range(human_answers: Sequence[str]) -> tuple[int, int] | None:
    """The allowed range of lengths in characters, from human answers; None if there are too few of them."""
    if len(human_answers) < MIN_HUMAN_ANSWERS:
        return None
    lengths = sorted(map(len, human_answers))
    low, high = (lengths[round(share / 100 * (len(lengths) - 1))] for share in LENGTH_PERCENTILES)
    return int(low * LENGTH_SLACK[0]), int(high * LENGTH_SLACK[1])


def repetition(text: str) -> float:
    """Share of the text's 3-word sequences that are repeats (0 to 1). An emoji counts as a word."""
    words = _WORD.findall(text.casefold())
    sequences = [tuple(words[i : i + REPETITION_WORDS]) for i in range(len(words) - REPETITION_WORDS + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def copied(answer: str, source: str) -> float:
    """Share of the answer's 3-word sequences that are in `source` (0 to 1)."""
    own = _sequences(answer)
    return len(own & _sequences(source)) / len(own) if own else 0.0


def _sequences(text: str) -> set[tuple[str, ...]]:
    words = plain_words(text)
    return {tuple(words[i : i + COPY_WORDS]) for i in range(len(words) - COPY_WORDS + 1)}


def _unanswered(answer: Mapping[str, Any], context: Context) -> Fault | None:
    if answer["finish_reason"] == "context":
        return Fault(
            "teacher_failed", f"the prompt of {answer['prompt_tokens']} tokens does not fit the teacher's context"
        )
    if answer["finish_reason"] == "failed":
        return Fault("teacher_failed", answer["failure"])
    return None


def _empty(answer: Mapping[str, Any], context: Context) -> Fault | None:
    return Fault("empty_output", "the answer is empty") if is_empty(answer["answer"]) else None


def _special(answer: Mapping[str, Any], context: Context) -> Fault | None:
    match = _SPECIAL.search(answer["answer"])
    return Fault("special_tokens", f"contains the control token {match[0]}") if match else None


def _repeats(answer: Mapping[str, Any], context: Context) -> Fault | None:
    share = repetition(answer["answer"])
    if share <= MAX_REPETITION:
        return None
    return Fault("repetition", f"{share:.0%} of its 3-word sequences are repeats; the limit is {MAX_REPETITION:.0%}")


def _cut_off(answer: Mapping[str, Any], context: Context) -> Fault | None:
    if answer["finish_reason"] != "length":
        return None
    return Fault(
        "answer_cut_off", f"the answer did not end within {answer['answer_tokens']} tokens (teacher.max_new_tokens)"
    )


def _refuses(answer: Mapping[str, Any], context: Context) -> Fault | None:
    match = _REFUSAL.search(answer["answer"]) or STOCK_PHRASES.search(answer["answer"])
    return Fault("refusal_boilerplate", f"contains a stock phrase of a refusal: {match[0][:80]!r}") if match else None


def _holes(answer: Mapping[str, Any], context: Context) -> Fault | None:
    match = _PLACEHOLDER.search(answer["answer"]) or HOLE_PATTERN.search(answer["answer"])
    return Fault("unresolved_placeholder", f"contains the unfilled placeholder {match[0]}") if match else None


def _copies(answer: Mapping[str, Any], context: Context) -> Fault | None:
    text, prompt = answer["answer"], [turn["content"] for turn in answer["prompt_messages"]]
    for turn in prompt:
        if normalise(text) == normalise(turn) or copied(text, turn) > MAX_COPY:
            return Fault("output_equals_input", "repeats the prompt")
    given = [context.system_prompt, *(turn["content"] for example in context.examples for turn in example)]
    for part in given:
        if copied(text, part) > MAX_EXAMPLE_COPY:
            return Fault("output_equals_input", f"repeats the system prompt or an example: {part[:60]!r}")
    foreign = _numbers(given) & _numbers([text]) - _numbers(prompt) - _numbers([context.system_prompt])
    if foreign:
        return Fault("output_equals_input", f"copies the number {min(foreign)} from an example")
    return None


def _numbers(texts: Iterable[str]) -> set[str]:
    return {number for text in texts for number in _LONG_NUMBER.findall(text)}


def _length(answer: Mapping[str, Any], context: Context) -> Fault | None:
    if context.length_range is None:
        return None
    low, high = context.length_range
    size = len(answer["answer"])
    if low <= size <= high:
        return None
    return Fault("answer_length", f"{size} characters; the range from human answers is {low} to {high}")


CHECKS: tuple[Callable[[Mapping[str, Any], Context], Fault | None], ...] = (
    _unanswered,
    _empty,
    _special,
    _repeats,
    _cut_off,
    _refuses,
    _holes,
    _copies,
    _length,
)
"""Filters in the order in which they are applied. An answer is set aside with its first fault."""
