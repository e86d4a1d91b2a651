"""lm-eval tasks that must hold: paired with the own base model document by document, by the rule of forgetting."""

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.claim import Claim, KeptFacts
from ft_pipeline.decide.sentences import say
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline_tests.evaluation.scored import CONFIG, losses, scored

RIGHT = [1] * 200 + [0] * 200


def after(lost: int, won: int = 0) -> list[int]:
    """The results of a model that lost and won some of the documents of RIGHT."""
    return [0] * lost + [1] * (200 - lost) + [1] * won + [0] * (200 - won)


def checks(
    folder: Path, before: dict[str, Any], after: dict[str, Any], metrics: Any = None, **must_hold: float
) -> list[tuple[Claim, str]]:
    """The claims about the tasks, each with its sentence."""
    plain = {"kind": "base", "losses": losses(3.0), "tasks": before}
    tuned = {"kind": "merged", "losses": losses(2.0), "technique": "lora", "tasks": after}
    inputs = {
        "a/prompt_baseline": scored(folder / "base", {"plain": plain}, metrics=metrics),
        "a/scores": scored(folder / "tuned", {"merged": tuned}, metrics=metrics),
    }
    found = compare(inputs, CONFIG | {"must_hold": must_hold})
    return [(claim, say(found, claim)) for claim in found.of_kind("task")]


def metric(name: str, lower: bool = False) -> dict[str, Any]:
    return {name: {"label": name, "lower_is_better": lower, "meaning": "of its task", "unit": "of a task"}}


@pytest.mark.parametrize(
    ("lost", "won", "verdict"), [(0, 0, "shown"), (20, 12, "shown"), (30, 15, "open"), (60, 5, "refuted")]
)
def test_a_task_holds_by_the_rule_of_forgetting(tmp_path: Path, lost: int, won: int, verdict: str) -> None:
    [(claim, sentence)] = checks(tmp_path, {"t/acc": RIGHT}, {"t/acc": after(lost, won)}, metric("t/acc"), t=0.05)
    assert (claim.row, claim.measure, claim.verdict) == ("a/merged", "t/acc", verdict)
    told = claim.told(KeptFacts)
    assert (claim.count, told.lost, told.won, claim.rival) == (400, lost, won, "base")
    words = {"shown": "Passes", "open": "Cannot be told from", "refuted": "Fails"}[verdict]
    assert sentence.startswith(f"{words} the task t/acc: {lost} of 400 documents got worse and {won} better")


def test_a_wider_margin_passes_what_a_narrow_one_does_not(tmp_path: Path) -> None:
    pair = ({"t/acc": RIGHT}, {"t/acc": after(30, 15)}, metric("t/acc"))
    [(narrow, said)], [(wide, _)] = (checks(tmp_path / str(margin), *pair, t=margin) for margin in (0.05, 0.1))
    assert (narrow.verdict, wide.verdict, wide.limit) == ("open", "shown", -0.1)
    assert said.endswith("At the observed drop of 3.7 points, about 4,196 more documents would tell")
    [(beyond, said)] = checks(tmp_path / "beyond", *pair, t=0.03)
    assert beyond.told(KeptFacts).needed is None and said.endswith(
        "no number of documents would show that it is below the margin: read the answers that changed"
    )
    few = {"t/acc": RIGHT[180:220]}, {"t/acc": [0, *RIGHT[181:219], 1]}
    [(claim, said)] = checks(tmp_path / "few", *few, metric("t/acc"), t=0.05)
    assert claim.told(KeptFacts).needed == 242  # 6.2·4/41/0.05²
    assert said.endswith(" about 202 more documents would tell")


def test_a_metric_of_which_less_is_better_is_turned_around(tmp_path: Path) -> None:
    before = [0.2 + number / 1000 for number in range(100)]
    worse = [value + 0.3 + 0.01 * (number % 3) for number, value in enumerate(before)]
    found = metric("t/errors", lower=True)
    [(lost, said)] = checks(tmp_path / "worse", {"t/errors": before}, {"t/errors": worse}, found, t=0.05)
    told = lost.told(KeptFacts)
    assert (lost.verdict, told.lost, told.is_rate) == ("refuted", 100, False)
    assert said.endswith("the true drop is at least 0.309, the margin is 0.050")
    [(kept, said)] = checks(tmp_path / "better", {"t/errors": worse}, {"t/errors": before}, found, t=0.05)
    assert (kept.verdict, kept.told(KeptFacts).won) == ("shown", 100) and "the true gain is at least 0.309" in said


def test_every_metric_of_a_task_must_hold(tmp_path: Path) -> None:
    metrics = metric("t/acc") | metric("t/acc_norm") | metric("t2/acc")
    before = {"t/acc": RIGHT, "t/acc_norm": RIGHT, "t2/acc": RIGHT}
    found = checks(tmp_path, before, {**before, "t/acc": after(60), "t2/acc": after(60)}, metrics, t=0.05)
    assert [(claim.measure, claim.verdict) for claim, _ in found] == [("t/acc", "refuted"), ("t/acc_norm", "shown")]


@pytest.mark.parametrize(
    ("before", "after", "because"),
    [
        ({}, {"t/acc": RIGHT}, "its base model, base, was not scored on it. Materialize its scores, or run `ft run`"),
        ({}, {}, "no task of this name was run. A group of tasks cannot be held: name its tasks"),
        ({"t/f": [0.5]}, {"t/f": [0.7]}, "it has a single document, which shows nothing"),
    ],
)
def test_a_task_of_which_nothing_is_known_blocks(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], because: str
) -> None:
    [(claim, said)] = checks(tmp_path, before, after, metric("t/acc") | metric("t/f"), t=0.05)
    assert (claim.verdict, claim.holds) == ("unknown", False)
    assert said == f"Nothing is known of the task {claim.measure}: {because}"


def test_a_model_without_its_base_model_is_not_compared_with_another(tmp_path: Path) -> None:
    row = {"losses": losses(2.0), "tasks": {"t/acc": RIGHT}}
    inputs = {
        "b/prompt_baseline": scored(tmp_path / "b", {"plain": {"kind": "base", **row}}, metrics=metric("t/acc")),
        "a/scores": scored(tmp_path / "a", {"merged": {"kind": "merged", **row}}, metrics=metric("t/acc")),
    }
    bases = {"b/prompt_baseline": "2", "a/scores": "1"}
    measured = compare(inputs, CONFIG | {"must_hold": {"t": 0.05}, "bases": bases})
    [claim] = measured.of_kind("task")
    assert say(measured, claim) == "Nothing is known of the task t: its base model was not scored"


def test_settings_name_tasks_with_and_without_a_margin() -> None:
    tasks = ["arc_easy", {"task": "ours", "must_hold": True}, {"task": "safe", "must_hold": True, "margin": 0.02}]
    settings = ProjectSettings.model_validate({"name": "x", "evaluation": {"tasks": [*tasks, {"task": "shown"}]}})
    assert settings.evaluation.task_names == ["arc_easy", "ours", "safe", "shown"]
    assert settings.evaluation.tasks_that_must_hold() == {"ours": 0.05, "safe": 0.02}
