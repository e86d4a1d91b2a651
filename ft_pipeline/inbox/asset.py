"""The inbox in the UI: what people corrected in served answers, and its acceptance by a person.

It is not a step: it has no artifact, nothing depends on it, and `ft run` leaves it out.
"""

from typing import Any

import dagster as dg
from pydantic import Field

from ft_pipeline.errors import UserError
from ft_pipeline.execution import orphaned_runs
from ft_pipeline.execution.dagster_names import asset_key, asset_tags, dagster_settings, in_its_project, prefixed
from ft_pipeline.execution.metadata import clean_metadata, metadata_of_page
from ft_pipeline.execution.resources import ProjectResource
from ft_pipeline.inbox.decide import Decided, decide
from ft_pipeline.inbox.proposals import Inbox, Proposal, read_inbox
from ft_pipeline.inbox.settings import InboxKeys
from ft_pipeline.inbox.traffic import log_path
from ft_pipeline.page import Table
from ft_pipeline.project import Project

SHOWN_ROWS = 100
"""Rows of the table. `ft inbox` lists all."""
COLUMNS = {
    "id": "The id of the call, for `accept` and `reject`",
    "question": "The last turn before the answer",
    "correction": "What it should have answered",
    "kind": "Whether a person corrected the answer, or rated it up or down",
    "time": "When, in UTC",
    "answer": "What the model answered",
    "user": "Who gave the feedback",
    "checks": "ok, or why the tables would not use it",
}


class InboxConfig(dg.Config):
    """Proposals to accept or reject. Without ids, nothing is decided, and the open ones are shown."""

    accept: list[str] = Field(default_factory=list, description="Ids of proposals that become training data.")
    reject: list[str] = Field(default_factory=list, description="Ids of proposals that are not proposed again.")
    reason: str = Field("", description="Why, for the record.")


ABOUT = (
    "Answers of `ft serve --log` that people corrected or rated, and that wait for a decision. "
    "**Look here** to see what users corrected. Nothing trains on an answer that was not accepted. "
    "**To accept some:** hold Shift and click *Materialize*, and write their ids under `accept`. They are added to "
    "data/raw/traces, and the tables follow (docs/inbox.md)."
)


def used(project: Project) -> bool:
    """Return whether the project names a log of served answers."""
    return InboxKeys.of(project.settings).inbox.log is not None


def inbox_asset() -> dg.AssetsDefinition:
    """Return the asset of the project for which definitions are made."""

    @dg.asset(
        group_name=prefixed("sources"),
        kinds={"json"},
        key=asset_key("inbox"),
        owners=dagster_settings().owners,
        tags=asset_tags(),
        code_version="1",
        description=ABOUT,
    )
    @in_its_project
    def inbox(
        context: dg.AssetExecutionContext, config: InboxConfig, ft_project: ProjectResource
    ) -> dg.MaterializeResult:
        """Carry out the decisions of the run's config, and show what is open."""
        try:
            found = ft_project.find()
            orphaned_runs.lock_run(context, found.store)
            return dg.MaterializeResult(metadata=clean_metadata(metadata_of_page(_decide_and_show(found, config))))
        except UserError as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    return inbox


def _decide_and_show(project: Project, config: InboxConfig) -> dict[str, Any]:
    decides = bool(config.accept or config.reject)
    if InboxKeys.of(project.settings).inbox.log is None and not decides:
        return {"proposals": 0, "how": "Set `inbox.log` in project.yaml to the folder of `ft serve --log`."}
    log = log_path(project, None)
    decided = decide(project, log, config.accept, config.reject, config.reason) if decides else Decided([], [], [])
    return _metadata(read_inbox(project, log), decided)


def _metadata(found: Inbox, decided: Decided) -> dict[str, Any]:
    proposals = found.listed(rated_up=True, rated_down=True)
    return {
        "open": Table([_row(proposal) for proposal in proposals[:SHOWN_ROWS]], COLUMNS),
        "proposals": len(proposals),
        "accepted": decided.accepted or None,
        "rejected": decided.rejected or None,
        "files": decided.files or None,
        "rated_down": found.rated_down,
        "rated_down_later": found.rated_down_later or None,
        "feedback_without_call": found.without_call,
        "broken_lines": [line.describe() for line in found.traffic.broken[:SHOWN_ROWS]] or None,
    }


def _row(proposal: Proposal) -> dict[str, Any]:
    values = {name: getattr(proposal, name) for name in COLUMNS}
    return values | {"time": proposal.when}
