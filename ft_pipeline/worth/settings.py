"""The section `worth` of project.yaml."""

from typing import Literal, get_args

from pydantic import Field

from ft_pipeline.settings.feature_keys import FeatureKeys
from ft_pipeline.settings.yaml_file import Section

GroupedBy = Literal["file", "table", "tag", "language", "teacher", "slice", "label"]
BY: tuple[str, ...] = get_args(GroupedBy)
"""What rows are grouped by. `slice`: the rules of `evaluation.slices`."""
MOST_GROUPS = 12


class WorthSettings(Section):
    """What each group of rows does for the score, with each run (docs/worth.md). Answers must be labels."""

    by: GroupedBy | None = None
    """What rows are grouped by. Null: the asset `worth` is empty; `ft worth` can be asked at any time."""
    groups: int = Field(MOST_GROUPS, ge=1)
    """Most groups that are looked at, the largest."""


class WorthKeys(FeatureKeys):
    """What project.yaml may say."""

    worth: WorthSettings = WorthSettings()
