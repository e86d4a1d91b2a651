"""Settings of what a tuned model must keep of its own base model: probes, and tasks that must hold."""

import re
from typing import Literal

from pydantic import Field, model_validator

from ft_pipeline.settings.yaml_file import Section, rule_error

PROBE_NAME_PATTERN = r"[a-z][a-z0-9_]{0,39}"
MARGIN = 0.05
"""The largest drop against the own base model that is accepted, unless a setting says otherwise."""


class ProbeSettings(Section):
    """A file of questions that every tuned model and its own base model answer, and what is wanted of the answers."""

    file: str = Field(min_length=1)
    """A JSONL file in the project. Each line has `query`, and may have `system`, a system prompt of its own."""
    expect: Literal["refuse", "answer"] | None = None
    """Whether the model should decline, or answer. Null: see `must_not`."""
    must_not: str | None = Field(None, min_length=1)
    """A regular expression (Python syntax) that an answer must not contain, in place of `expect`."""
    refusal: str | None = Field(None, min_length=1)
    """A regular expression of words that decline in this project, besides the English stock phrases of models."""
    margin: float = Field(MARGIN, gt=0, lt=1)
    """Largest drop of the share of answers that are as wanted, against the own base model (absolute)."""

    @model_validator(mode="after")
    def _check_rule(self) -> "ProbeSettings":
        if (self.expect is None) == (self.must_not is None):
            raise rule_error(
                "expect" if self.expect else "file",
                "probes need either `expect` (refuse or answer) or `must_not`. Set one of them.",
            )
        if self.refusal and self.expect is None:
            raise rule_error("refusal", "`refusal` is only used with `expect`. Remove it, or set `expect`.")
        for key, pattern in (("must_not", self.must_not), ("refusal", self.refusal)):
            _check_pattern(key, pattern)
        return self


class TaskSettings(Section):
    """An lm-eval task with more than its name."""

    task: str = Field(min_length=1)
    """Its name. If it must hold, it is a single task, not a group."""
    must_hold: bool = False
    """Whether a tuned model is released only if it is shown to be no worse on it than its own base model."""
    margin: float = Field(MARGIN, gt=0)
    """By how much each of its metrics may be worse, for a task that must hold (absolute)."""

    @model_validator(mode="after")
    def _check_margin(self) -> "TaskSettings":
        if "margin" in self.model_fields_set and not self.must_hold:
            raise rule_error("margin", "`margin` is only used with `must_hold: true`. Set it, or remove `margin`.")
        return self


def _check_pattern(key: str, pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise rule_error(
            key, f"`{key}` is {pattern!r}, which is not a valid regular expression ({error}). Correct it."
        ) from None
