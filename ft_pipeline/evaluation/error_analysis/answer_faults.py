"""The kinds of faults by which answers that got worse are grouped: those of the rails, and what differs from the
reference."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ft_pipeline.evaluation.comparison.guardrails import RAILS
from ft_pipeline.evaluation.metrics.classification import EXPECTED, FOUND, NO_LABEL
from ft_pipeline.evaluation.metrics.json_fields import EXTRA, MISSING, OUTCOMES, WRONG

MIN_DIGITS = 2
"""Numbers with fewer digits are not compared: answers count their steps."""
SHORT, LONG = 0.5, 2.0
"""Bytes of the answer over bytes of the reference, from which on an answer is much shorter or longer."""
OTHER = "have none of these faults"
"""The kind of an answer without a known fault: it says something else, or the same in other words."""

_KINDS = {
    WRONG: "have another value of `{}`",
    MISSING: "do not have `{}`",
    EXTRA: "have a field that the reference does not have",
}
"""What is wrong with a field, by its outcome."""
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")

Sample = Mapping[str, Any]
"""A record of samples.parquet."""


def _numbers(text: str) -> set[str]:
    """Return the numbers of a text without their separators: 1,000 and 1000 are the same."""
    digits = (re.sub(r"\D", "", number) for number in _NUMBER.findall(text))
    return {number for number in digits if len(number) >= MIN_DIGITS}


def _invents_number(sample: Sample) -> bool:
    return bool(_numbers(sample["answer"]) - _numbers(sample["prompt"]) - _numbers(sample["reference"]))


def _misses_number(sample: Sample) -> bool:
    return bool(_numbers(sample["reference"]) - _numbers(sample["answer"]))


DIFFERENCES: dict[str, Callable[[Sample], bool]] = {
    "call other tools than the reference, or with other arguments": lambda sample: sample.get("call_arguments") == 0,
    "have fields with other values than the reference": lambda sample: sample.get("fields_match") == 0,
    "name a number that neither the prompt nor the reference has": _invents_number,
    "leave out a number of the reference": _misses_number,
    "are less than half as long as the reference": lambda sample: sample["length_ratio"] < SHORT,
    "are more than twice as long as the reference": lambda sample: sample["length_ratio"] > LONG,
}
"""By the fault in a sentence, in the order in which they are shown."""


def faults_of(sample: Sample, unused: Collection[str] = ()) -> list[str]:
    """Return the faults of an answer, as parts of a sentence: "are cut off …". `[OTHER]` if it has none.

    unused: the names of the rails that say nothing about this task: their fault is usual in it, or not checked.
    """
    of_rails = [
        rule.fault
        for name, rule in RAILS.items()
        if name not in unused and (name != "format" or "format_valid" in sample) and rule.has_fault(sample)
    ]
    differences = [fault for fault, differs in DIFFERENCES.items() if differs(sample)]
    return [*of_rails, *_faults_of_checks(sample), *differences] or [OTHER]


def _faults_of_checks(sample: Sample) -> list[str]:
    """Return the fields and labels that the project's checks found wrong, from the columns that they leave in a
    sample."""
    faults = []
    for column, value in sample.items():
        metric, _, kind = column.rpartition("/")
        if kind == OUTCOMES and isinstance(value, str):
            faults += [_KINDS[outcome].format(name) for name, outcome in json.loads(value).items() if outcome in _KINDS]
        elif kind == FOUND and isinstance(value, str) and value != sample[f"{metric}/{EXPECTED}"]:
            named = f"give the label {value!r}" if value != NO_LABEL else "give no label"
            faults.append(f"{named} in place of {sample[f'{metric}/{EXPECTED}']!r}")
    return list(dict.fromkeys(faults))
