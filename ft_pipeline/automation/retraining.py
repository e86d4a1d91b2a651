"""Decides for the nightly schedule whether an experiment is due for training again, from the store alone."""

from dataclasses import dataclass

import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.execution.planning import PlannedStep, plan
from ft_pipeline.execution.step import STEPS
from ft_pipeline.project import Project
from ft_pipeline.release.champion import current
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers

PREPARED = ("sources", "tables")
"""Stages that follow the raw files automatically. A retraining uses them as they are, if their checks passed."""


@dataclass(frozen=True)
class RetrainingDecision:
    """Whether an experiment is due for training, and why or why not."""

    experiment: str
    due: bool
    reason: str


def experiments_to_watch(project: Project) -> list[str]:
    """Return the experiments with `retrain: true`, and the champion's.

    An experiment with a broken YAML is included, so that the skip reason names it.
    """
    champion = current(project.store)
    return [
        name
        for name in project.experiment_names()
        if _wants_retraining(project, name) or (champion is not None and champion.experiment == name)
    ]


def decide_retraining(project: Project, experiment: str) -> RetrainingDecision:
    """Compare what a run of `experiment` would build with what its last complete training was built from.

    New data alone is a reason once there are enough new rows. Changed settings, a step that never ran, and a run that
    was interrupted are reasons by themselves. The checks of the tables are read again: if one failed, nothing is due.
    """
    try:
        project.experiment(experiment)
        minimum = project.settings.retraining.min_new_rows
        planned = [step for step in plan(project, [experiment]) if step.runs]
        before = [step for step in planned if STEPS[step.asset].stage in PREPARED and step.asset in _needed_tables()]
        if before:
            return RetrainingDecision(experiment, False, _not_ready(before[0]))
        roots = [step for step in planned if STEPS[step.asset].stage not in PREPARED and step.cause != "upstream"]
        return _verdict(experiment, roots, _new_rows(project, experiment), minimum)
    except UserError as error:
        return RetrainingDecision(experiment, False, str(error))


def _wants_retraining(project: Project, name: str) -> bool:
    try:
        return project.experiment(name).retrain
    except UserError:
        return True


def _needed_tables() -> set[str]:
    """Every source and table that training data depends on, directly or not."""
    needed: set[str] = set()
    waiting = ["training_data"]
    while waiting:
        for dep in STEPS[waiting.pop()].deps:
            if dep not in needed:
                needed.add(dep)
                waiting.append(dep)
    return {name for name in needed if STEPS[name].stage in PREPARED}


def _not_ready(table: PlannedStep) -> str:
    if table.state == "failed":
        return f"{table.asset} failed a check: {table.reason}"
    return f"{table.asset} is not up to date: {table.reason}"


def _verdict(experiment: str, roots: list[PlannedStep], new_rows: int | None, minimum: int) -> RetrainingDecision:
    """roots: the steps that would run for their own reason, not because a step before them runs."""
    if not roots:
        return RetrainingDecision(experiment, False, "nothing has changed since the last training")
    own = next((root for root in roots if root.cause != "data"), None)
    if own is not None:
        return RetrainingDecision(experiment, True, f"{own.asset}: {own.reason}")
    # The experiment is trained, but the champion is not yet decided.
    if all(root.experiment is None and STEPS[root.asset].stage != "distillation" for root in roots):
        return RetrainingDecision(experiment, True, f"{roots[0].asset}: {roots[0].reason}")
    if new_rows is None:
        return RetrainingDecision(experiment, True, "no training has been completed yet")
    if new_rows < minimum:
        return RetrainingDecision(experiment, False, f"{new_rows} new rows, at least {minimum} required")
    return RetrainingDecision(experiment, True, f"{new_rows} new rows")


def _new_rows(project: Project, experiment: str) -> int | None:
    """The number of rows of the train split that the last complete training did not see; None if there was none.

    Complete means scored. Rows with an answer of the teacher are not counted: the retraining creates them.
    """
    store = ArtifactStore(project.store)
    trained = _trained_on(store, experiment)
    pointer = AssetPointers(store.root).read("conversations")
    if trained is None or pointer is None:
        return None
    return len(_train_ids(store.require(pointer.kind, pointer.fingerprint)) - _train_ids(trained))


def _trained_on(store: ArtifactStore, experiment: str) -> Artifact | None:
    """The conversations that the last scored model of the experiment was trained on."""
    pointer = AssetPointers(store.root).read("scores", experiment)
    artifact = store.open(pointer.kind, pointer.fingerprint) if pointer else None
    for step in ("merged_model", "training_data", "conversations"):
        artifact = store.open(*artifact.inputs[step]) if artifact else None
    return artifact


def _train_ids(conversations: Artifact) -> set[str]:
    rows = pq.read_table(
        conversations.path / "rows.parquet", columns=["id"], filters=[("split", "==", "train")], partitioning=None
    )
    return set(rows["id"].to_pylist())
