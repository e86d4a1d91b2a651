"""Settings of what runs by itself: retraining, notifications and retention."""

import re
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from ft_pipeline.settings.yaml_file import Section, rule_error

CRON_RANGES = (range(60), range(24), range(1, 32), range(1, 13), range(8))
"""Valid numbers of minute, hour, day of the month, month and day of the week (0 and 7 are Sunday)."""


class RetrainingSettings(Section):
    """When the nightly schedule retrains experiments with `retrain: true`, and the champion's experiment."""

    min_new_rows: int = Field(50, ge=1)
    """Smallest number of train rows that the last training did not use."""
    schedule: str = "0 2 * * *"
    """When to check: minute, hour, day of the month, month, day of the week (0 is Sunday), as in cron."""
    timezone: str = "UTC"
    """Time zone of the schedule, e.g. `Europe/Berlin`."""

    @field_validator("schedule")
    @classmethod
    def _check_schedule(cls, schedule: str) -> str:
        fields = schedule.split()
        if len(fields) != len(CRON_RANGES) or not all(map(_is_cron_field, fields, CRON_RANGES)):
            raise ValueError(
                f"{schedule!r} is not a cron schedule of five numeric fields. Write one such as `0 2 * * *`."
            )
        return schedule

    @model_validator(mode="after")
    def _check_timezone(self) -> "RetrainingSettings":
        if self.timezone not in available_timezones():
            raise rule_error(
                "timezone", f"unknown time zone {self.timezone!r}. Use a name such as UTC or Europe/Berlin."
            )
        return self


class NotificationSettings(Section):
    """Where failed runs, failed checks and new champions are reported, besides data/store/notifications.jsonl."""

    webhook_env: str = Field("FT_WEBHOOK_URL", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that contains the URL of a Slack-compatible webhook. If it is not set, no
    webhook is called."""
    ui_url: str | None = None
    """The URL at which your team opens the UI, for links, e.g. `https://dagster.example.org`. The UI also answers under
    this host name."""


class RetentionSettings(Section):
    """What is kept in addition to what is in use: by `ft gc` in the store, and by the daemon in Dagster's history."""

    keep_days: float = Field(30, ge=0)
    """Artifacts and checkpoints younger than this many days are always kept."""
    run_days: float | None = Field(90, gt=0)
    """Finished runs older than this many days are removed from Dagster's history, except those that materialized what
    is current. Null keeps all."""
    warn_free_gb: float = Field(10, ge=0)
    """Free space in GB below which a full disk is announced each day (`notifications`). 0: never."""


def _is_cron_field(field: str, allowed: range) -> bool:
    """Return whether `field` is a list of `*`, numbers and ranges, each with an optional step, all within `allowed`."""
    parts = [re.fullmatch(r"(?:\*|(\d+)(?:-(\d+))?)(?:/[1-9]\d*)?", part) for part in field.split(",")]
    return all(part and all(int(number) in allowed for number in part.groups() if number) for part in parts)
