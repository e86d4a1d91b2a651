"""Reports again, each day, what failed in a run that a sensor started, until it succeeds."""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from ft_pipeline.automation.notifications import Notification, latest_of_subjects, notify
from ft_pipeline.automation.run_failures import JOB
from ft_pipeline.execution.dagster_names import PARTITION
from ft_pipeline.project import Project
from ft_pipeline.recorded_checks import failed_checks
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers

REPORT_AFTER = timedelta(hours=25)
"""Time without news of a failure after which it is reported again. Longer than a day, because a failed snapshot is
retried, and reported, once a day."""
FAILURES = ("run_failed", "gate_failed", "still_failing")


def report_lasting_failures(project: Project, instance: dg.DagsterInstance, now: datetime) -> list[str]:
    """Report each failure that lasts, and return what the webhook answered."""
    latest: dict[str, dict[str, Any]] = {}
    for (kind, subject), entry in latest_of_subjects(project).items():
        if kind in FAILURES and subject and entry["time"] >= latest.get(subject, entry)["time"]:
            latest[subject] = entry
    outcomes = []
    for subject, entry in latest.items():
        since = datetime.fromisoformat(entry["time"])
        if now - since >= REPORT_AFTER and not _is_over(project, instance, subject, since):
            message = entry["message"]
            if entry["kind"] != "still_failing":
                message = f"since {since:%Y-%m-%d %H:%M} UTC: {message}"
            outcomes.append(notify(project, Notification("still_failing", message, entry["run_id"], subject), now))
    return outcomes


def _is_over(project: Project, instance: dg.DagsterInstance, subject: str, since: datetime) -> bool:
    """Whether the subject succeeded after it failed, or its experiment was removed."""
    name, _, experiment = subject.partition("@")
    if experiment and not project.defines(experiment):
        return True
    if name.startswith(JOB):
        tags = {PARTITION: experiment} if experiment else {}
        succeeded = dg.RunsFilter(
            job_name=name.removeprefix(JOB), statuses=[dg.DagsterRunStatus.SUCCESS], tags=tags, created_after=since
        )
        return bool(instance.get_runs(succeeded, limit=1))
    store = ArtifactStore(project.store)
    pointer = AssetPointers(store.root).read(name, experiment or None)
    artifact = store.open(pointer.kind, pointer.fingerprint) if pointer else None
    if pointer is None or artifact is None or failed_checks(artifact):
        return False
    return datetime.fromisoformat(pointer.when) > since
