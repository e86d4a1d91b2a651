"""The held-out target of a training: its interval, its words, and where it is told."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.evaluation.comparison.own_targets import own_targets
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.objectives.targets import HELD_OUT
from ft_pipeline_tests.decide.rules import desk_of
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, losses, scored

Values = list[float]


def targets_of(
    folder: Path, objective: str, items: Values, measures: dict[str, tuple[Values, Values, bool]]
) -> list[OwnTarget]:
    """The targets of an adapter with these values by conversation: before, after, whether they are rates."""
    folder.mkdir(exist_ok=True, parents=True)
    document = {
        "best_step": 8,
        "items": items,
        "measures": {
            name: {"first": before, "best": after, "is_rate": is_rate}
            for name, (before, after, is_rate) in measures.items()
        },
    }
    (folder / HELD_OUT).write_text(json.dumps(document))
    return own_targets(adapter_in(folder, objective), "x")


def adapter_in(folder: Path, objective: str) -> Any:
    spec = {"config": {"experiment": {"objective": objective}}}
    return SimpleNamespace(path=folder, spec=spec, document=lambda name: json.loads((folder / name).read_text()))


def test_pairs_are_told_in_percent_and_points(tmp_path: Path) -> None:
    right = [1.0] * 81 + [0.0] * 19
    margin = [0.2 + 0.01 * number for number in range(100)]
    ranked, margins = targets_of(
        tmp_path,
        "dpo",
        [1] * 100,
        {"eval_accuracy": ([0] * 100, right, True), "eval_margin": ([0] * 100, margin, False)},
    )
    assert ranked.describe() == "Held-out pairs ranked right: 50 % → 81 %, +31 points (22 to 37)."
    assert ranked.has_improved and ranked.verdict == "improved its own target"
    assert margins.describe() == "Held-out margin: 0.000 → 0.695, +0.695 (0.637 to 0.753)."
    assert OwnTarget.model_validate_json(ranked.model_dump_json()) == ranked


def test_a_lower_loss_is_a_gain_with_a_negative_change(tmp_path: Path) -> None:
    before, after = [20.0, 22.0, 30.0, 18.0], [15.0, 18.0, 24.0, 13.0]
    (target,) = targets_of(tmp_path, "sft", [10, 10, 12, 8], {"eval_loss": (before, after, False)})
    assert target.before == pytest.approx(2.25) and target.after == pytest.approx(1.75)
    assert target.gain == pytest.approx(0.5) and target.low is not None and 0 < target.low < 0.5
    assert target.describe().endswith("2.250 → 1.750 nats per token, -0.500 (-0.630 to -0.370).")
    assert target.conversations == 4


def test_all_pairs_right_still_has_a_width_and_one_conversation_has_no_interval(tmp_path: Path) -> None:
    ranked, *_ = targets_of(tmp_path / "all", "dpo", [1] * 12, {"eval_accuracy": ([0] * 12, [1] * 12, True)})
    assert ranked.low is not None and 0.2 < ranked.low < 0.5 == ranked.gain
    (single,) = targets_of(tmp_path / "one", "grpo", [1], {"eval_reward": ([0.2], [0.4], False)})
    assert single.describe() == "Held-out reward: 0.200 → 0.400, +0.200 (unknown from one conversation)."
    assert not single.has_improved and single.verdict == "is not shown to improve its own target"


def test_a_target_that_got_worse_is_named_so(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    before = generator.uniform(0.5, 1, 60)
    after = before - generator.uniform(0.05, 0.15, 60)
    (target,) = targets_of(tmp_path, "grpo", [1] * 60, {"eval_reward": (before.tolist(), after.tolist(), False)})
    assert target.verdict == "got worse at its own target" and target.change.startswith("-0.1")


def test_an_adapter_of_an_older_version_has_no_targets(tmp_path: Path) -> None:
    assert own_targets(adapter_in(tmp_path, "sft")) == []


def test_every_objective_has_a_target() -> None:
    assert all(spec.targets for spec in OBJECTIVES.values())
    assert {name for name, spec in OBJECTIVES.items() if spec.learns_from == "answers"} >= {"sft", "cpt", "distill"}


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_training_that_changes_nothing_is_rarely_said_to_have_improved(tmp_path: Path, objective: str) -> None:
    """In 400 worlds with 50 conversations: 2.5 % is wanted, and at most 5 % is held."""
    generator, improved = np.random.default_rng(7), 0
    for world in range(400):
        folder = tmp_path / f"{world}"
        if objective == "sft":
            before = generator.gamma(4, 5, 50)
            after = before + generator.standard_normal(50)
            measures = {"eval_loss": (before.tolist(), after.tolist(), False)}
        else:
            right = generator.integers(0, 2, 50).astype(float)
            measures = {"eval_accuracy": ([0.0] * 50, right.tolist(), True)}
        improved += targets_of(folder, objective, [1] * 50, measures)[0].has_improved
    assert improved / 400 <= 0.05


# --- where it is told -------------------------------------------------------------------------------------------------


def target(experiment: str, *, gain: float = 0.3) -> dict[str, Any]:
    """A target as training_facts has it."""
    words = OBJECTIVES["sft"].targets[0]
    ends = {"before": 2.0, "after": 2.0 - gain, "gain": gain, "low": gain - 0.1, "high": gain + 0.1}
    about = {"label": words.label, "unit": words.unit, "lower_is_better": words.lower_is_better, "conversations": 60}
    return OwnTarget(experiment=experiment, objective="sft", **about, **ends).model_dump()


def compared(folder: Path, facts: dict[str, Any], **levels: float) -> Comparison:
    """A base model, and an experiment for each level of the loss."""
    inputs = {"a/prompt_baseline": scored(folder / "b", {"plain": {"kind": "base", "losses": losses(2.0)}})}
    for name, level in levels.items():
        row = {"kind": "merged", "technique": "lora", "losses": losses(level), "correct": CORRECT}
        inputs[f"{name}/scores"] = scored(folder / name, {"merged": row})
    return compare(inputs, CONFIG, facts)


def test_the_comparison_has_a_table_of_own_targets_and_no_key_without_them(tmp_path: Path) -> None:
    facts = {"good": {"own_targets": [target("good")]}, "other": {"own_targets": [target("other")]}}
    found = compared(tmp_path / "with", facts, good=1.2)
    assert [entry.experiment for entry in found.own_targets] == ["good"], "an experiment without a row is left out"
    assert (
        "| good | sft | Held-out loss | 2.000 → 1.700 nats per token | -0.300 (-0.400 to -0.200)"
        in comparison_markdown(found)
    )
    assert Comparison.model_validate(found.to_json()).own_targets == found.own_targets
    assert "own_targets" not in compared(tmp_path / "without", {}, good=1.2).to_json()


def test_a_target_is_a_reason_only_where_it_is_not_what_decides(tmp_path: Path) -> None:
    own = {
        "good": target("good"),
        "vain": target("vain"),
        "flat": target("flat", gain=0.05),
    }
    facts = {name: {"own_targets": [entry], "train_rows": 800} for name, entry in own.items()}
    comparison = compared(tmp_path, facts, good=1.2, vain=2.1, flat=2.2)
    reasons = " ".join(recommend(desk_of(comparison, facts, 20))["reasons"])
    assert "vain improved its own target, but does not clearly beat the best use of its base model (loss)." in reasons
    assert "flat is not shown to improve its own target. Held-out loss: 2.000 → 1.950 nats per token" in reasons
    assert "good improved its own target" not in reasons
