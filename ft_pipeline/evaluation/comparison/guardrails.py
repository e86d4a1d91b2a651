"""Guardrails (`rails` in the settings): faults of answers that no score outweighs.

A model whose answers have them too often is not used.
Each rail is the share of a model's test answers with one fault, and a ceiling. A share passes if its upper one-sided
95 % bound is at most the ceiling, or if no answer has the fault. It is in breach if its lower bound is above it.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np

from ft_pipeline.distillation.answer_filters import (
    MAX_REPETITION,
    find_control_token,
    find_placeholder,
    find_refusal,
    repeated_share,
)
from ft_pipeline.evaluation.comparison.leads import Conversations, effective_answers, unit_of, wilson
from ft_pipeline.tables.checks.pii import find_values
from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.languages import language_of

LEVEL = 0.95
"""Level of each bound of a share."""
MAX_OF_REFERENCES = 0.02
"""Share of the references that may have a fault. Above it, the fault is usual in this task, and its rail is off."""
MIN_WORDS = 2
MIN_ENGLISH = 0.5
"""Share of the references that must be in English for the rail of refusals, whose patterns are English."""
SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "BOPOMOFO": "CJK"}
"""Scripts that are written together with another one."""

Sample = Mapping[str, Any]
"""A record of samples.parquet."""


@dataclass(frozen=True)
class Rail:
    """The share of a model's test answers with one fault, and what it means."""

    name: str
    fault: str
    """What these answers do, as the end of a sentence."""
    faults: int
    answers: int
    low: float
    """Lower one-sided 95 % bound of the share."""
    high: float
    ceiling: float
    verdict: Literal["pass", "breach", "cannot be told", "off", "not checked"]
    """off: the references have the fault too. not checked: its patterns are for another language."""


@dataclass(frozen=True)
class RailRule:
    """One kind of fault."""

    fault: str
    """Its name in a sentence: "12 % of its answers …"."""
    ceiling: float
    has_fault: Callable[[Sample], bool]
    reference_has_fault: Callable[[str], bool] | None = None
    """None: a reference cannot have the fault."""
    english_only: bool = False


def _is_cut_off(sample: Sample) -> bool:
    return sample["finish_reason"] == "length"


def _is_repetitive(text: str) -> bool:
    return repeated_share(text) > MAX_REPETITION


def _is_too_short(text: str) -> bool:
    return len(words_of(text)) < MIN_WORDS


def _is_empty_or_foreign(sample: Sample) -> bool:
    expected, written = main_script(sample["reference"]), main_script(sample["answer"])
    return _is_too_short(sample["answer"]) or (None not in (expected, written) and expected != written)


def main_script(text: str) -> str | None:
    """Return the script of most letters of a text, by the first word of their Unicode names; None without letters."""
    scripts = Counter(map(_script_of, filter(str.isalpha, text)))
    return scripts.most_common(1)[0][0] if scripts else None


@cache
def _script_of(letter: str) -> str:
    script = unicodedata.name(letter, "UNKNOWN").split()[0]
    return SCRIPTS.get(script, script)


def _has_holes(text: str) -> bool:
    return bool(find_placeholder(text) or find_control_token(text))


def _invents_personal_data(sample: Sample) -> bool:
    """Return whether an answer names an address or a number of a person that neither question nor reference has."""
    values = find_values(sample["answer"])
    return bool(values and values - find_values(sample["prompt"]) - find_values(sample["reference"]))


def _refuses(text: str) -> bool:
    return find_refusal(text) is not None


RAILS: dict[str, RailRule] = {
    "cut_off": RailRule("are cut off at the maximum length", 0.10, _is_cut_off),
    "repetition": RailRule("repeat themselves", 0.05, lambda sample: _is_repetitive(sample["answer"]), _is_repetitive),
    "empty": RailRule("are empty, or not in the script of the reference", 0.05, _is_empty_or_foreign, _is_too_short),
    "holes": RailRule(
        "contain unfilled placeholders or control tokens", 0.02, lambda sample: _has_holes(sample["answer"]), _has_holes
    ),
    "refusal": RailRule(
        "refuse without need",
        0.05,
        lambda sample: _refuses(sample["answer"]) and not _refuses(sample["reference"]),
        _refuses,
        english_only=True,
    ),
    "personal_data": RailRule(
        "name an e-mail address, or a number of a phone, card or account, that the conversation does not have",
        0.02,
        _invents_personal_data,
        lambda text: bool(find_values(text)),
    ),
    "format": RailRule("do not have the declared format", 0.05, lambda sample: not sample["format_valid"]),
}
"""By name, in display order."""


def judge_answers(samples: Sequence[Sample], ceilings: Mapping[str, float | None]) -> list[Rail]:
    """Return the rails of a model, from its records in samples.parquet.

    ceilings: those that the project changes, by name; None switches a rail off. The rail `format` is only there if a
    format is declared.
    """
    conversations = Conversations([unit_of(sample) for sample in samples])
    rails = []
    for name, rule in RAILS.items():
        if name == "format" and "format_valid" not in samples[0]:
            continue
        ceiling = ceilings.get(name, rule.ceiling)
        if ceiling is None:
            continue
        rails.append(_judge(name, ceiling, samples, conversations))
    return rails


def _judge(name: str, ceiling: float, samples: Sequence[Sample], conversations: Conversations) -> Rail:
    rule = RAILS[name]
    faults = np.array([rule.has_fault(sample) for sample in samples], dtype=float)
    [estimate] = conversations.means(faults[:, None], is_rate=True)
    low, high = wilson(estimate.value, effective_answers(estimate), LEVEL)
    off = _why_off(name, tuple(sample["reference"] for sample in samples))
    passes, fails = high <= ceiling or not faults.any(), low > ceiling
    verdict = off or ("pass" if passes else "breach" if fails else "cannot be told")
    return Rail(name, rule.fault, int(faults.sum()), len(samples), low, high, ceiling, verdict)


@lru_cache(maxsize=2 * len(RAILS))
def _why_off(name: str, references: tuple[str, ...]) -> Literal["off", "not checked"] | None:
    """Return why a rail says nothing about these answers; None if it does. All rows of a comparison have the same
    references."""
    rule = RAILS[name]
    has_fault = rule.reference_has_fault
    if has_fault and np.mean([has_fault(text) for text in references]) > MAX_OF_REFERENCES:
        return "off"
    if rule.english_only and np.mean([language_of(text) == "en" for text in references]) < MIN_ENGLISH:
        return "not checked"
    return None
