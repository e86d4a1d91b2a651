"""What a schedule starts at a tick, what it leaves out and why, and who hears of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ft_pipeline.automation.notifications import Notification, notify_daily
from ft_pipeline.automation.retraining import decide_retrainings
from ft_pipeline.errors import UserError, first_line
from ft_pipeline.project import Project

LONG_RUN = timedelta(hours=20)
"""A run that has been under way for longer was there at the tick of the day before, if the schedule runs daily."""


@dataclass
class Night:
    """The result of one tick."""

    due: dict[str, str] = field(default_factory=dict)
    """Experiment to train → why."""
    not_due: dict[str, str] = field(default_factory=dict)
    """Experiment that needs no training now → why."""
    untrained: dict[str, str] = field(default_factory=dict)
    """Experiment that something keeps from being trained → what."""

    def skipped(self) -> str:
        """Return why experiments are skipped."""
        return "; ".join(f"{name}: {reason}" for name, reason in (self.not_due | self.untrained).items())

    def leave_out_under_way(self, under_way: Mapping[str, datetime], now: datetime) -> None:
        """Move the experiments that are being trained out of those that are due."""
        for name in self.due.keys() & under_way.keys():
            reason = "a run is already under way"
            since = under_way[name]
            if now - since > LONG_RUN:
                self.untrained[name] = f"{reason} since {since:%Y-%m-%d %H:%M} UTC. Cancel it if it hangs"
            else:
                self.not_due[name] = reason
        self.due = {name: reason for name, reason in self.due.items() if name not in under_way}


def plan_night(project: Project) -> Night:
    """Decide what the nightly schedule trains. Raises UserError if nothing can be decided."""
    night = Night()
    for decision in decide_retrainings(project):
        chosen = night.due if decision.due else night.untrained if decision.blocked else night.not_due
        chosen[decision.experiment] = decision.reason
    return night


def plan_weekly(project: Project) -> Night:
    """Every experiment with a valid YAML."""
    night = Night()
    for name in project.experiment_names():
        try:
            project.training_chain(name)
            night.due[name] = "weekly run"
        except UserError as error:
            night.untrained[name] = str(error)
    return night


def decide_tick(
    project: Project,
    schedule: str,
    plan: Callable[[Project], Night],
    under_way: Mapping[str, datetime],
    now: datetime,
) -> Night:
    """Plan a tick of a schedule, and notify people of everything that it cannot train, once a day. Never raises.

    A schedule that raises starts nothing, and shows that only in the UI.
    """
    try:
        night = plan(project)
        night.leave_out_under_way(under_way, now)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        night = Night(untrained={"all experiments": reason})
    if night.untrained:
        notify_daily(project, Notification("not_trained", _describe(night.untrained.items()), subject=schedule), now)
    return night


def _describe(untrained: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in untrained)
