"""Settings of how the project appears on a Dagster instance, which it may share with others."""

import re
from typing import Any

from pydantic import Field, field_validator

from ft_pipeline.settings.yaml_file import Section

_KEY_PART = re.compile(r"[A-Za-z0-9_]+")
_OWNER = re.compile(r"team:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+\.[^@\s]+")


class DagsterSettings(Section):
    """Names on a Dagster instance. They change no result. Two projects on one instance need different prefixes."""

    key_prefix: list[str] = Field(default_factory=list)
    """Parts before the name of each asset: `[support]` makes `support/scores`. Also in those of groups, jobs,
    schedules, sensors and partitions. Dagster knows an asset with another prefix as another asset; the store does not
    change."""
    pool: str = Field("gpu", pattern=r"^[A-Za-z0-9_]+$")
    """The pool of the assets that need a device. Projects on the same GPUs share one."""
    owners: list[str] = Field(default_factory=lambda: ["team:ml"])
    """Owners of the assets: email addresses, or `team:NAME`."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of the assets, to search for in the UI, besides `ft/project`."""
    columns: bool = False
    """Whether tables have Dagster's column schema, for a catalog or Dagster+. The UI shows it above everything else on
    the page of a table. Its descriptions are also under *Show schema* of the example rows."""
    fresh_within_days: float | None = Field(None, gt=0)
    """The UI warns if the comparison or the champion was not materialized for this many days. For projects whose
    schedule `weekly` is on. Null: no warning."""

    @field_validator("key_prefix")
    @classmethod
    def _check_prefix(cls, parts: list[str]) -> list[str]:
        for part in parts:
            if not _KEY_PART.fullmatch(part):
                raise ValueError(f"{part!r} is no part of an asset key. Use letters, digits and underscores.")
        return parts

    @field_validator("owners")
    @classmethod
    def _check_owners(cls, owners: list[str]) -> list[str]:
        for owner in owners:
            if not _OWNER.fullmatch(owner):
                raise ValueError(f"{owner!r} is no owner for Dagster. Write an email address or team:NAME.")
        return owners

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: dict[str, str]) -> dict[str, Any]:
        for key, value in tags.items():
            if not re.fullmatch(r"([A-Za-z0-9._-]{1,63}/)?[A-Za-z0-9._-]{1,63}", key):
                raise ValueError(f"{key!r} is no key of a tag. Use up to 63 letters, digits, `.`, `_` and `-`.")
            if not re.fullmatch(r"[A-Za-z0-9._-]{0,63}", value):
                raise ValueError(f"{value!r} is no value of a tag. Use up to 63 letters, digits, `.`, `_` and `-`.")
        return tags
