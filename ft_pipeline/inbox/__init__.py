"""The inbox: what people corrected in served answers, proposed as data, and accepted or rejected by a person."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="inbox",
    about="Served answers that people corrected become training data, if a person accepts them.",
    docs="inbox.md",
    settings={"project": "ft_pipeline.inbox.settings:InboxKeys"},
    commands={"inbox": "ft_pipeline.inbox.commands:app"},
    assets={"inbox": "ft_pipeline.inbox.asset:inbox_asset"},
    hooks={"verified": "ft_pipeline.inbox.decisions:verified"},
)
