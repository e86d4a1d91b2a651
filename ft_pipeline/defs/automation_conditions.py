"""When an asset is materialized by itself; named, and made of Dagster's own conditions only."""

from typing import Any

from dagster import AutomationCondition as AC


def _follow(changed: Any) -> Any:  # Dagster's types of what conditions are combined to do not fit each other
    """What was materialized once is rebuilt after `changed`, when nothing that it depends on is being built.

    eager() would fire on every materialization of a parent, also on one that gave the same data version.
    """
    return (
        (changed | AC.code_version_changed()).since_last_handled()
        & ~AC.missing()
        & ~AC.any_deps_missing()
        & ~AC.any_deps_in_progress()
        & ~AC.in_progress()
    )


FOLLOW_SOUND_INPUTS = (
    _follow(AC.any_deps_match(AC.data_version_changed() | AC.will_be_requested()))
    & AC.all_deps_blocking_checks_passed()
).with_label("follow_sound_inputs")
"""Follows the data versions before it, in the run that makes them where it can, unless a blocking check failed."""

FOLLOW_ALL_INPUTS = _follow(AC.any_deps_match(AC.data_version_changed())).with_label("follow_all_inputs")
"""Follows the data versions before it also where a check failed: to show what did."""
