"""Settings of slices: parts of the test conversations, each with its own lead."""

import re

from pydantic import Field, model_validator

from ft_pipeline.settings.yaml_file import Section, rule_error

SLICE_NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,39}"
"""Names of slices. Those that are made without a setting have a space in their names, so that no name is used twice."""
MAX_MUST_HOLD = 3
"""Largest number of slices that can block a promotion: each more makes it likelier that one does so by chance."""


class SliceSettings(Section):
    """A slice: the test conversations that meet all of its conditions."""

    matches: str | None = Field(None, min_length=1)
    """A regular expression (Python syntax, case is ignored) that is searched in the turns of the user."""
    tag: str | None = Field(None, min_length=1)
    """One of the tags of the row."""
    source: str | None = Field(None, min_length=1)
    """The table of the row (`alpaca`), its file (`support.jsonl`), or both (`alpaca/support.jsonl`)."""
    language: str | None = Field(None, min_length=1)
    """The language of the turns of the user, as an ISO 639 code (`de`). It is a guess, made from the text."""
    must_hold: bool = False
    """Whether a candidate must be shown not to be worse here by more than `margin`, to become champion."""
    margin: float | None = Field(None, ge=0)
    """By how much it may be worse: absolute for shares, 100 times that for chrF, relative for likelihoods."""

    @model_validator(mode="after")
    def _check_conditions(self) -> "SliceSettings":
        if all(condition is None for condition in (self.matches, self.tag, self.source, self.language)):
            raise rule_error("", "a slice has no condition. Set `matches`, `tag`, `source` or `language`.")
        if self.must_hold != (self.margin is not None):
            raise rule_error("", "`must_hold: true` and `margin` need each other. Set both or neither.")
        try:
            re.compile(self.matches or "")
        except re.error as error:
            raise rule_error(
                "matches",
                f"`matches` is {self.matches!r}, which is not a valid regular expression ({error}). Correct it.",
            ) from None
        return self


def check_slices(slices: dict[str, SliceSettings]) -> None:
    """Raise the error of a rule if the slices cannot be used together."""
    for name in slices:
        if not re.fullmatch(SLICE_NAME_PATTERN, name):
            raise rule_error(
                "slices",
                f"the slice name {name!r} is invalid. Use at most 40 lowercase letters, digits, _ and -, starting with "
                "a letter or digit.",
            )
    must_hold = [name for name, settings in slices.items() if settings.must_hold]
    if len(must_hold) > MAX_MUST_HOLD:
        raise rule_error(
            "slices",
            f"{len(must_hold)} slices have `must_hold: true` ({', '.join(must_hold)}). Keep it for at most "
            f"{MAX_MUST_HOLD}.",
        )
