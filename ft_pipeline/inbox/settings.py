"""The section `inbox` of project.yaml."""

from pydantic import Field

from ft_pipeline.settings.feature_keys import FeatureKeys
from ft_pipeline.settings.yaml_file import Section


class InboxSettings(Section):
    """Served answers that people corrected, which a person may accept as training data (docs/inbox.md)."""

    log: str | None = Field(None, min_length=1)
    """The log of `ft serve --log`: a folder, or a .jsonl file, in the project folder and outside data/raw. Null:
    `ft inbox` needs --log."""


class InboxKeys(FeatureKeys):
    """What project.yaml may say."""

    inbox: InboxSettings = InboxSettings()
