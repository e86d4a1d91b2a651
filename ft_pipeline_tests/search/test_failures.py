"""What ends a search, or one trial of it: failures, lost machines, and records of other searches."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.execution.garbage_collection import SEARCH_LOCK, collect_garbage
from ft_pipeline.execution.workers.supervisor import WorkerLost
from ft_pipeline.project import Project
from ft_pipeline.search import sweep
from ft_pipeline.search.space import Dimension
from ft_pipeline.search.study import SweepRequest
from ft_pipeline.search.sweep import HANDLING, PRUNED_FILE, TrialClock, pruned_log
from ft_pipeline.search.trials import State, Trial, describe_loss
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.spec import NAME_DIGITS, Spec

REQUEST = SweepRequest(Project(Path("shop")), "lora", (), trials=9)
LOST = WorkerLost("adapter: node 7 is gone.", 75, "")


def run_trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, states: list[State]) -> tuple[str, list[str]]:
    """Run a search whose trials end like this. Return why it ended, and its lines."""
    ended: list[Trial] = []
    study: Any = SimpleNamespace(
        space=(Dimension("lora.r", tuple(range(1, 10))),),
        store=None,
        id="s",
        seed=1,
        own_values=None,
        objective="sft",
    )

    def run_trial(study: Any, trials: list[Trial], number: int, values: Any, *rest: Any) -> Trial:
        state = states[number - 1]
        losses = (1.0,) if state == "complete" else ()
        ended.append(Trial(number, values, state, losses, 1, 1.0, 1, "" if losses else "it ran out of memory"))
        return ended[-1]

    monkeypatch.setattr(sweep, "stored_trials", lambda *_: {trial.number: (trial, None) for trial in ended})
    monkeypatch.setattr(sweep, "_run_trial", run_trial)
    lines: list[str] = []
    return sweep._run_trials(study, REQUEST, TrialClock(tmp_path), lines.append), lines


def test_a_search_goes_on_after_a_failed_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    states: list[State] = ["failed", "failed", "complete", "failed", "failed", "complete", "pruned", "failed", "failed"]
    reason, lines = run_trials(monkeypatch, tmp_path, states)
    assert reason == "9 trials have ended"
    assert lines[0].startswith("try1 failed: lora.r=") and lines[0].endswith("it ran out of memory")


def test_failures_one_after_another_end_it_and_keep_what_is_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    message = "3 trials failed one after another, the last one with: it ran out of memory"
    assert run_trials(monkeypatch, tmp_path, ["complete", *["failed"] * 8])[0] == message  # type: ignore[list-item]
    with pytest.raises(UserError, match=message):
        run_trials(monkeypatch, tmp_path, ["failed"] * 9)


def test_a_trial_goes_on_after_its_machine_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[Any] = [LOST, LOST, "adapter"]

    def build(*_: Any) -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(sweep, "build_unlisted", build)
    monkeypatch.setattr(sweep, "RETRY_SECONDS", 0)
    study: Any = SimpleNamespace(context=None, name="lora")
    spec = Spec("adapter")
    assert sweep._build_where_machines_are_lost(study, spec, 1) == "adapter"
    outcomes[:] = [LOST] * 3
    with pytest.raises(WorkerLost):
        sweep._build_where_machines_are_lost(study, spec, 1)
    assert not outcomes


def test_machines_that_stay_lost_are_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lose(*_: Any) -> Any:
        raise LOST

    monkeypatch.setattr(sweep, "read_request", lambda request: ({}, ()))
    for name in ("run_up_to", "assets_not_read"):
        monkeypatch.setattr(sweep, name, lambda *_: None)
    monkeypatch.setattr(sweep, "new_study", lose)
    with pytest.raises(UserError, match=r"^The search stopped\. adapter: node 7 is gone\.$"):
        sweep.run_sweep(SweepRequest(Project(tmp_path), "lora", (), trials=1), lambda line: None)


def test_only_a_record_of_the_same_comparison_stops_a_training(tmp_path: Path) -> None:
    finished = [[3.0, 2.0], [3.0, 2.5], [3.0, 2.2]]
    store = ArtifactStore(tmp_path)
    spec = Spec("adapter", config={"r": 8}, handling={HANDLING: finished})
    assert pruned_log(store, spec) is None
    work = tmp_path / "work" / "adapter" / spec.hash[:NAME_DIGITS]
    work.mkdir(parents=True)
    log = [{"step": 4, "eval_loss": 2.9}]
    (work / PRUNED_FILE).write_text(json.dumps({HANDLING: finished, "log_history": log}), encoding="utf-8")
    assert pruned_log(store, spec) == log
    (work / PRUNED_FILE).write_text(json.dumps({HANDLING: finished[:2], "log_history": log}), encoding="utf-8")
    assert pruned_log(store, spec) is None
    (work / PRUNED_FILE).write_text('{"pruning": [[3.0', encoding="utf-8")
    assert pruned_log(store, spec) is None


def test_nothing_is_removed_while_a_search_is_under_way(tmp_path: Path) -> None:
    (tmp_path / "project.yaml").write_text("name: shop\n", encoding="utf-8")
    project = Project(tmp_path)
    with (
        FileLock(project.store / "locks" / f"{SEARCH_LOCK}abc", "searching").hold(),
        pytest.raises(UserError, match=r"A search \(`ft sweep`\) is under way"),
    ):
        collect_garbage(project, dry_run=False)
    collect_garbage(project, dry_run=False)


def test_a_reward_is_shown_as_a_reward() -> None:
    assert (describe_loss(0.25, "grpo"), describe_loss(0.25, "sft")) == ("0.7500", "0.2500")
