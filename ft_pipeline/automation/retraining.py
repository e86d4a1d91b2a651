"""Decides for the nightly schedule whether an experiment is due for training again, from the store alone."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from ft_pipeline.decide.exposure_ledger import read_counted
from ft_pipeline.decide.looks import exposure_of
from ft_pipeline.decide.notes import exposure_note
from ft_pipeline.errors import UserError, first_line
from ft_pipeline.evaluation.items import make_items, read_rows, select_rows
from ft_pipeline.execution.planning import PlannedStep, Planner
from ft_pipeline.project import Project
from ft_pipeline.release.champion import current, history
from ft_pipeline.step import STEPS
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, current_artifact

logger = logging.getLogger(__name__)

PREPARED_STAGES = ("sources", "tables")
"""Stages that follow the raw files automatically. A retraining uses their artifacts as they are."""


@dataclass(frozen=True)
class RetrainingDecision:
    """Whether an experiment is due for training, and why or why not."""

    experiment: str
    due: bool
    reason: str
    blocked: bool = False
    """Whether something that a person must fix keeps the experiment from being trained, or from being decided on."""


def experiments_to_watch(project: Project) -> list[str]:
    """Return the experiments with `retrain: true`, and the champion's.

    An experiment with a broken YAML is included, so that the reason for skipping it is reported.
    """
    champion = current(project.store)
    return [
        name
        for name in project.experiment_names()
        if _sets_retrain(project, name) or (champion is not None and champion.experiment == name)
    ]


def decide_retrainings(project: Project) -> list[RetrainingDecision]:
    """Decide for each experiment to watch. An error of one experiment, of any type, is only that one's reason."""
    planner = Planner(project)
    return [_decide_safely(planner, name) for name in experiments_to_watch(project)]


def _decide_safely(planner: Planner, experiment: str) -> RetrainingDecision:
    try:
        return decide_retraining(planner, experiment)
    except Exception as error:  # one experiment must not keep the others from being trained
        logger.exception("%s could not be planned", experiment)
        reason = f"it could not be planned ({type(error).__name__}: {first_line(error)})"
        return RetrainingDecision(experiment, False, reason, blocked=True)


def decide_retraining(planner: Planner, experiment: str) -> RetrainingDecision:
    """Compare what a run of `experiment` would build with what its last complete training was built from.

    New data alone is a reason once there are enough new rows. Changed settings, a step that never ran, and a run that
    was interrupted are reasons by themselves. Nothing is due while a source or table that training depends on is not up
    to date or failed a check.
    """
    project = planner.project

    def blocked(reason: str) -> RetrainingDecision:
        return RetrainingDecision(experiment, False, reason, blocked=True)

    try:
        project.experiment(experiment)
        min_new_rows = project.settings.retraining.min_new_rows
        planned = [step for step in planner.plan([experiment]) if step.runs]
        if (used_up := _used_up(planner)) is not None:
            return blocked(used_up)
        prepared = _prepared_inputs()
        not_ready = next((step for step in planned if step.asset in prepared), None)
        if not_ready is not None:
            return blocked(_describe_not_ready(not_ready))
        roots = [
            step for step in planned if STEPS[step.asset].stage not in PREPARED_STAGES and step.cause != "upstream"
        ]
        return _decision(experiment, roots, _new_rows(planner.store, experiment), min_new_rows)
    except UserError as error:
        return blocked(str(error))


@functools.lru_cache(maxsize=1)  # the same for each experiment of a night
def _used_up(planner: Planner) -> str | None:
    """Return that models of too many settings were looked at on the test rows to promote what a training gives; None if
    there is room for more."""
    store, settings = planner.store, planner.project.settings
    comparison, conversations = current_artifact(store, "comparison"), current_artifact(store, "conversations")
    if comparison is None or conversations is None:
        return None
    test_rows = read_rows(conversations.path, "test")
    items = make_items(select_rows(test_rows, "test", settings.evaluation.max_test_rows))
    ids = sorted({item.question_key for item in items})
    if not ids:
        return None
    entries = read_counted(store.root, history(store.root))
    exposure = exposure_of(entries, ids, test_share=settings.data.test_share)
    return exposure_note(exposure, len(ids), settings.promotion.false_moves) if exposure.is_used_up else None


def _sets_retrain(project: Project, name: str) -> bool:
    """Whether the experiment's YAML sets `retrain: true`, or is broken."""
    try:
        return project.experiment(name).retrain
    except UserError:
        return True


def _prepared_inputs() -> set[str]:
    """Every source and table that training data depends on, directly or indirectly."""
    needed: set[str] = set()
    to_visit = ["training_data"]
    while to_visit:
        for dep in STEPS[to_visit.pop()].deps:
            if dep not in needed:
                needed.add(dep)
                to_visit.append(dep)
    return {name for name in needed if STEPS[name].stage in PREPARED_STAGES}


def _describe_not_ready(table: PlannedStep) -> str:
    if table.state == "failed":
        return f"{table.asset} failed a check: {table.reason}"
    return f"{table.asset} is not up to date: {table.reason}"


def _decision(experiment: str, roots: list[PlannedStep], new_rows: int | None, min_new_rows: int) -> RetrainingDecision:
    """Decide for tables that are ready. roots: the steps that would run, but not because a step before them runs."""
    if not roots:
        return RetrainingDecision(experiment, False, "nothing has changed since the last training")
    own_change = next((root for root in roots if root.cause not in ("data", "missing")), None)
    if own_change is not None:
        return RetrainingDecision(experiment, True, f"{own_change.asset}: {own_change.reason}")
    # The experiment is trained, but the steps that compare and release all experiments have not run yet.
    if all(root.experiment is None and STEPS[root.asset].stage != "distillation" for root in roots):
        return RetrainingDecision(experiment, True, f"{roots[0].asset}: {roots[0].reason}")
    if new_rows is None:
        return RetrainingDecision(experiment, True, "no training has been completed yet")
    if new_rows < min_new_rows:
        return RetrainingDecision(experiment, False, f"{new_rows} new rows, at least {min_new_rows} required")
    return RetrainingDecision(experiment, True, f"{new_rows} new rows")


def _new_rows(store: ArtifactStore, experiment: str) -> int | None:
    """The number of rows in the train split of `conversations` that the last complete training did not use.

    A training is complete if its model was scored; None if there was none. Rows with an answer of the teacher are not
    counted, because the retraining creates them.
    """
    trained_conversations = _last_trained_conversations(store, experiment)
    pointer = AssetPointers(store.root).read("conversations")
    if trained_conversations is None or pointer is None:
        return None
    if pointer.fingerprint == trained_conversations.fingerprint:
        return 0
    return _count_new_rows(store.require(pointer.kind, pointer.fingerprint).path, trained_conversations.path)


def _last_trained_conversations(store: ArtifactStore, experiment: str) -> Artifact | None:
    """The `conversations` that the last scored model of the experiment was trained on."""
    artifact = current_artifact(store, "scores", experiment)
    for name in ("merged_model", "training_data", "conversations"):
        artifact = store.open(*artifact.inputs[name]) if artifact else None
    return artifact


@functools.lru_cache(maxsize=64)  # most experiments of a night were trained on the same rows
def _count_new_rows(now: Path, before: Path) -> int:
    """The number of train rows in the conversations `now` that are not in those `before`. Artifacts never change."""
    return len(_train_ids(now) - _train_ids(before))


def _train_ids(conversations: Path) -> set[str]:
    rows = pq.read_table(
        conversations / "rows.parquet", columns=["id"], filters=[("split", "==", "train")], partitioning=None
    )
    return set(rows["id"].to_pylist())
