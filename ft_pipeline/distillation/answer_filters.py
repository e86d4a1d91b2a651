"""Filters for a teacher's answer, each with its reason code and its threshold.

This module does not import torch, because the asset that applies the filters runs in Dagster's process.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import (
    PLACEHOLDER_PATTERN,
    REFUSAL_PATTERN,
    SPECIAL_TOKEN_PATTERN,
    is_empty,
    normalise,
)

REPETITION_WORDS = 3
"""Number of words in a sequence whose repeats are counted."""
MAX_REPETITION = 0.15
"""Largest allowed share of an answer's 3-word sequences that are repeats.

Of 252 davinci answers (239 known to be degenerate), 250 are above it; of the other two, one counts upwards and one
lists translations. Of 999 Alpaca answers, 18 are above it (tables, sums); of 13,481 answers from two sets of support
conversations, one; of this project's own answers, none.
"""
COPY_WORDS = 3
"""Number of words in a sequence that counts as copied."""
MAX_COPY = 0.8
"""Largest allowed share of an answer's 3-word sequences from one turn of the prompt. Rewriting tasks reach 0.7."""
MAX_EXAMPLE_COPY = 0.5
"""The same for the system prompt and for one turn of an example. Lower, since they are not about this question."""
LENGTH_PERCENTILES = (1.0, 99.0)
"""Percentiles of the human answers' lengths that the allowed range of lengths is computed from."""
LENGTH_SLACK = (0.5, 1.25)
"""Factors of these percentiles: an answer must not be shorter than half the 1st percentile of the human answers (in
characters), or longer than 1.25 times the 99th."""
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
"""Stock phrases of a model that declines a task. REFUSAL_PATTERN, which also applies to human rows, has fewer."""
BRACKET_PATTERN = re.compile(
    r"\[(?:your|insert|customer|company|order|product|name|date|link|phone|e-?mail|address|tracking)\b[^\]\n]{0,40}\](?!\()"
    r"|<(?:your|insert|customer|order)[ _-][^>\n]{0,40}>",
    re.IGNORECASE,
)
"""Placeholders in square or angle brackets, such as [Your Name]. PLACEHOLDER_PATTERN of the tables matches {{…}}."""

_WORD = re.compile(r"\w+|[^\x00-\u2fff\s]")
"""A word, or one symbol above U+2FFF, such as an emoji."""
_LONG_NUMBER = re.compile(r"\d{4,}")
"""Such as an order number."""
_PLACEHOLDER, _SPECIAL_TOKEN, _REFUSAL = map(re.compile, (PLACEHOLDER_PATTERN, SPECIAL_TOKEN_PATTERN, REFUSAL_PATTERN))


@dataclass(frozen=True)
class Context:
    """What an answer is compared with."""

    system_prompt: str
    examples: Sequence[Sequence[Mapping[str, str]]]
    """The fixed few-shot examples in the teacher's prompt."""
    length_range: tuple[int, int] | None
    """Smallest and largest allowed length of an answer, in characters. None: lengths are not checked."""


def check_answer(answer: Mapping[str, Any], context: Context) -> Fault | None:
    """Return the first fault of a row of answers.parquet, or None."""
    return next((fault for check in CHECKS if (fault := check(answer, context))), None)


def length_range(human_lengths: Iterable[int]) -> tuple[int, int] | None:
    """Return the allowed range of lengths in characters, from those of human answers; None if there are too few."""
    lengths = sorted(human_lengths)
    if len(lengths) < MIN_HUMAN_ANSWERS:
        return None
    low, high = (lengths[round(percentile / 100 * (len(lengths) - 1))] for percentile in LENGTH_PERCENTILES)
    return int(low * LENGTH_SLACK[0]), int(high * LENGTH_SLACK[1])


def repeated_share(text: str) -> float:
    """Return the share of the text's 3-word sequences that are repeats (0 to 1). An emoji counts as a word."""
    words = _WORD.findall(text.casefold())
    sequences = [tuple(words[i : i + REPETITION_WORDS]) for i in range(len(words) - REPETITION_WORDS + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def find_refusal(text: str) -> re.Match[str] | None:
    """Return the first stock phrase of a refusal, in English."""
    return _REFUSAL.search(text) or STOCK_PHRASES.search(text)


def find_placeholder(text: str) -> re.Match[str] | None:
    """Return the first unfilled placeholder."""
    return _PLACEHOLDER.search(text) or BRACKET_PATTERN.search(text)


def find_control_token(text: str) -> re.Match[str] | None:
    """Return the first control token of a model, written as text."""
    return _SPECIAL_TOKEN.search(text)


def copied_share(answer: str, source: str) -> float:
    """Return the share of the answer's distinct 3-word sequences that are in `source` (0 to 1)."""
    answer_sequences = _sequences(answer)
    return len(answer_sequences & _sequences(source)) / len(answer_sequences) if answer_sequences else 0.0


def _sequences(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + COPY_WORDS]) for i in range(len(words) - COPY_WORDS + 1)}


def _check_answered(answer: Mapping[str, Any], context: Context) -> Fault | None:
    if answer["finish_reason"] == "context":
        return Fault(
            "teacher_failed", f"the prompt of {answer['prompt_tokens']} tokens does not fit the teacher's context"
        )
    if answer["finish_reason"] == "failed":
        return Fault("teacher_failed", answer["failure"])
    return None


def _check_not_empty(answer: Mapping[str, Any], context: Context) -> Fault | None:
    return Fault("empty_output", "the answer is empty") if is_empty(answer["answer"]) else None


def _check_special_tokens(answer: Mapping[str, Any], context: Context) -> Fault | None:
    match = find_control_token(answer["answer"])
    return Fault("special_tokens", f"contains the control token {match[0]}") if match else None


def _check_repetition(answer: Mapping[str, Any], context: Context) -> Fault | None:
    share = repeated_share(answer["answer"])
    if share <= MAX_REPETITION:
        return None
    return Fault("repetition", f"{share:.0%} of its 3-word sequences are repeats; the limit is {MAX_REPETITION:.0%}")


def _check_not_cut_off(answer: Mapping[str, Any], context: Context) -> Fault | None:
    if answer["finish_reason"] != "length":
        return None
    return Fault(
        "answer_cut_off", f"the answer did not end within {answer['answer_tokens']} tokens (teacher.max_new_tokens)"
    )


def _check_refusal(answer: Mapping[str, Any], context: Context) -> Fault | None:
    match = find_refusal(answer["answer"])
    return Fault("refusal_boilerplate", f"contains a stock phrase of a refusal: {match[0][:80]!r}") if match else None


def _check_placeholders(answer: Mapping[str, Any], context: Context) -> Fault | None:
    match = find_placeholder(answer["answer"])
    return Fault("unresolved_placeholder", f"contains the unfilled placeholder {match[0]}") if match else None


def _check_prompt_not_copied(answer: Mapping[str, Any], context: Context) -> Fault | None:
    text = answer["answer"]
    for turn in answer["prompt_messages"]:
        if normalise(text) == normalise(turn["content"]) or copied_share(text, turn["content"]) > MAX_COPY:
            return Fault("output_equals_input", "repeats the prompt")
    return None


def _check_examples_not_copied(answer: Mapping[str, Any], context: Context) -> Fault | None:
    """Check for text of the system prompt and the examples, and for long numbers that only an example contains."""
    text, system_prompt = answer["answer"], context.system_prompt
    examples = [turn["content"] for example in context.examples for turn in example]
    for source in (system_prompt, *examples):
        if copied_share(text, source) > MAX_EXAMPLE_COPY:
            return Fault("output_equals_input", f"repeats the system prompt or an example: {source[:60]!r}")
    prompt = [turn["content"] for turn in answer["prompt_messages"]]
    only_in_examples = _long_numbers(examples) - _long_numbers([*prompt, system_prompt])
    copied_numbers = _long_numbers([text]) & only_in_examples
    if copied_numbers:
        return Fault("output_equals_input", f"copies the number {min(copied_numbers)} from an example")
    return None


def _check_reference(answer: Mapping[str, Any], context: Context) -> Fault | None:
    """Check that the words of the reference are in the answer, one after the other, whatever is said around them."""
    reference = answer.get("reference")
    if reference is None:
        return None
    wanted, words = words_of(reference), words_of(answer["answer"])
    if not wanted:  # nothing but signs
        wanted, words = tuple(reference.strip()), tuple(answer["answer"])
    if any(words[begin : begin + len(wanted)] == wanted for begin in range(len(words) - len(wanted) + 1)):
        return None
    return Fault("reference_mismatch", f"does not contain the reference {reference[:60]!r}")


def _long_numbers(texts: Iterable[str]) -> set[str]:
    return {number for text in texts for number in _LONG_NUMBER.findall(text)}


def _check_length(answer: Mapping[str, Any], context: Context) -> Fault | None:
    if context.length_range is None or answer.get("reference") is not None:
        return None
    low, high = context.length_range
    length = len(answer["answer"])
    if low <= length <= high:
        return None
    return Fault("answer_length", f"{length} characters; the range from human answers is {low} to {high}")


CHECKS: tuple[Callable[[Mapping[str, Any], Context], Fault | None], ...] = (
    _check_answered,
    _check_not_empty,
    _check_special_tokens,
    _check_repetition,
    _check_not_cut_off,
    _check_refusal,
    _check_placeholders,
    _check_prompt_not_copied,
    _check_examples_not_copied,
    _check_reference,
    _check_length,
)
"""The filters, in the order in which they are applied. An answer is set aside for its first fault."""
