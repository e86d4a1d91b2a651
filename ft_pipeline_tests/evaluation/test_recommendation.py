"""Each rule on a comparison that calls for it."""

import json
from pathlib import Path
from typing import Any

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.recommend import recommend
from ft_pipeline_tests.decide.rules import desk_of
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, ITEMS, losses, scored

NOISY = [(13 * number % 40) / 20 - 1 for number in range(ITEMS)]
"""From -1 to 1, about 0 on average: a difference that is drowned."""


def case(
    folder: Path,
    *,
    plain: float = 2.0,
    prompted: float = 1.7,
    passages: float | list[float] | None = None,
    teacher: list[float] | None = None,
    **experiments: dict[str, Any],
) -> Comparison:
    """A comparison; per experiment `loss` (a level, or one per item) and the row's other values; the teacher's chrF."""
    rows = {
        "plain": {"kind": "base", "losses": losses(plain), "correct": CORRECT},
        "few_shot": {"kind": "prompt", "losses": losses(prompted), "tokens": 400},
    }
    if passages is not None:
        level = losses(passages) if isinstance(passages, float) else passages
        rows["looked_up"] = {"kind": "prompt", "losses": level, "tokens": 300, "passages": 2}
    inputs = {"a/prompt_baseline": scored(folder / "baseline", rows)}
    if teacher is not None:
        about = {"kind": "teacher", "chrf": teacher}
        inputs["a/teacher_scores"] = scored(folder / "teacher", {"teacher": about})
    for name, options in experiments.items():
        adapter = {"kind": "adapter", "technique": "lora", "correct": CORRECT, **options}
        level = adapter.pop("loss")
        merged_level = adapter.pop("merged", level)
        tuned = {
            "adapter": {**adapter, "losses": losses(level) if isinstance(level, float) else level},
            "merged": {
                **adapter,
                "kind": "merged",
                "losses": losses(merged_level) if isinstance(merged_level, float) else merged_level,
            },
        }
        inputs[f"{name}/scores"] = scored(folder / name, tuned)
    return compare(inputs, CONFIG)


def decide(comparison: Comparison, **rows: int) -> dict[str, Any]:
    facts = {name: {"train_rows": count} for name, count in rows.items()}
    found = recommend(desk_of(comparison, facts, 20))
    assert json.loads(json.dumps(found)) == found
    return found


def said(found: dict[str, Any], words: str) -> bool:
    return any(words in reason for reason in found["reasons"])


def test_the_best_prompt_is_recommended_if_nothing_is_tuned(tmp_path: Path) -> None:
    found = decide(case(tmp_path))
    assert (found["decision"], found["experiment"], found["row"]) == ("train", None, "few_shot")
    assert said(found, "No model has been tuned yet")


def test_a_clearly_better_tuned_model_is_recommended(tmp_path: Path) -> None:
    found = decide(case(tmp_path, style={"loss": 1.2}), style=800)
    assert (found["decision"], found["experiment"], found["row"]) == ("lora", "style", "style/adapter")
    assert said(
        found,
        "Tuning pays off: style/adapter beats the best use of its base model. loss: style/adapter leads few_shot by "
        "0.500",
    )
    assert said(found, "400 prompt tokens per call, style/adapter 40 (90% fewer)")
    assert said(found, "General accuracy: 0.750 (base model), 0.750 (style/adapter). Keeps general knowledge: 0 of 400")
    assert found["evidence"]["difference"]["low"] > 0
    assert found["evidence"]["train_rows"] == 800


def test_prompting_is_recommended_if_tuning_is_not_better(tmp_path: Path) -> None:
    found = decide(case(tmp_path, style={"loss": 1.9}), style=800)
    assert (found["decision"], found["experiment"]) == ("prompt", None)
    assert said(found, "The prompt variant few_shot is at least as good")


def test_a_lead_that_is_not_clear_does_not_count(tmp_path: Path) -> None:
    level = [loss + noise - 0.05 for loss, noise in zip(losses(1.7), NOISY, strict=True)]
    found = decide(case(tmp_path, style={"loss": level}), style=800)
    assert found["decision"] == "prompt"
    assert said(found, "No tuned model is clearly better")


def test_a_few_test_conversations_decide_nothing(tmp_path: Path) -> None:
    comparison = case(tmp_path, style={"loss": 1.0}, passages=1.2)
    found = recommend(desk_of(comparison, {"style": {"train_rows": 800}}, ITEMS + 1))
    assert (found["decision"], found["row"]) == ("more_data", "looked_up")
    assert said(
        found, "40 test conversations are too few, 41 are needed. Add 1 conversations to the test split, or raise"
    )
    assert recommend(desk_of(case(tmp_path / "none"), {}, ITEMS + 1))["decision"] == "train"


def test_a_model_that_forgets_is_not_recommended(tmp_path: Path) -> None:
    nothing = [False] * len(CORRECT)
    found = decide(case(tmp_path, style={"loss": 1.0, "correct": nothing}), style=800)
    assert found["decision"] == "prompt"
    assert said(found, "No tuned model can be used. style/adapter: Forgets: 300 of 400 questions were lost and 0 won")
    careful = case(tmp_path / "two", hasty={"loss": 1.0, "correct": nothing}, careful={"loss": 1.2})
    assert decide(careful, hasty=800, careful=800)["experiment"] == "careful"


def test_the_simpler_technique_is_recommended_if_it_keeps_the_lead(tmp_path: Path) -> None:
    comparison = case(tmp_path, small={"loss": 1.05}, tiny={"loss": 1.0, "technique": "qlora"})
    assert comparison.rows[0].name == "tiny/adapter"
    found = decide(comparison, small=800, tiny=800)
    assert (found["decision"], found["experiment"]) == ("lora", "small")
    assert said(
        found, "It keeps 93% of the lead of tiny/adapter (at least 80% is shown), and lora is the simpler technique"
    )
    less = case(tmp_path / "two", small={"loss": 1.2}, tiny={"loss": 1.0, "technique": "qlora"})
    assert decide(less, small=800, tiny=800)["decision"] == "qlora"


def test_a_merge_that_costs_quality_is_mentioned(tmp_path: Path) -> None:
    found = decide(case(tmp_path, style={"loss": 1.2, "merged": 1.4}), style=800)
    assert (found["decision"], found["row"]) == ("lora", "style/adapter")
    assert said(found, "Merging lowers the quality. loss: style/adapter leads style/merged by 0.200")
    assert not said(decide(case(tmp_path / "two", style={"loss": 1.2}), style=800), "Merging lowers")


def test_distillation_is_recommended_if_the_teacher_leads(tmp_path: Path) -> None:
    better = [60.0 + number % 3 for number in range(ITEMS)]
    found = decide(case(tmp_path, teacher=better, style={"loss": 1.2}), style=800)
    assert (found["decision"], found["row"], found["experiment"]) == ("distillation", "teacher", "style")
    assert said(
        found,
        "The teacher's answers are clearly better than those of every baseline and tuned model: chrF: teacher leads",
    )
    assert said(found, "What could change the decision: more distillation, with more unlabeled prompts")
    assert said(found, "in style; or the teacher itself, at its 0.5 s per call.")
    assert said(found, "So far tuning pays off: loss: style/adapter leads few_shot")
    assert found["evidence"]["teacher"]["difference"]["low"] > 0
    behind = decide(case(tmp_path / "two", teacher=better, style={"loss": 1.9}), style=800)
    assert behind["decision"] == "distillation"
    assert said(behind, "So far style/adapter is not clearly better than the prompt variant few_shot")
    assert decide(case(tmp_path / "three", teacher=better))["decision"] == "distillation"


def test_a_teacher_that_does_not_lead_changes_nothing(tmp_path: Path) -> None:
    level = [20.0 + noise for noise in NOISY]
    found = decide(case(tmp_path, teacher=level, style={"loss": 1.2}), style=800)
    assert (found["decision"], found["experiment"]) == ("lora", "style")
    assert said(found, "The teacher is not clearly better, so more distillation is unlikely to help. chrF:")
    assert decide(case(tmp_path / "two", teacher=level))["decision"] == "train"


def test_retrieval_is_recommended_if_passages_lead(tmp_path: Path) -> None:
    found = decide(case(tmp_path, passages=1.2, style={"loss": 1.5}), style=800)
    assert (found["decision"], found["experiment"], found["row"]) == ("retrieval", None, "looked_up")
    assert said(found, "The model lacks facts, so use retrieval")
    assert said(found, "loss: looked_up leads few_shot by 0.500")
    assert said(found, "No tuned model is clearly better; adapters change style more readily than facts. loss: looked")
    assert found["evidence"]["passages"]["row"] == "looked_up"
    few = decide(case(tmp_path / "few", passages=1.2, style={"loss": 1.5}), style=40)
    assert few["decision"] == "retrieval"
    forgetful = case(tmp_path / "forgets", passages=1.2, style={"loss": 1.0, "correct": [False] * len(CORRECT)})
    assert decide(forgetful, style=800)["decision"] == "retrieval"
    untuned = decide(case(tmp_path / "none", passages=1.2))
    assert untuned["decision"] == "retrieval"
    assert not said(untuned, "No tuned model")


def test_a_tuned_model_that_beats_passages_wins_and_passages_are_mentioned(tmp_path: Path) -> None:
    found = decide(case(tmp_path, passages=1.5, style={"loss": 1.2}), style=800)
    assert (found["decision"], found["evidence"]["best_untouched"]) == ("lora", "looked_up")
    assert said(found, "Passages help the base model: loss: looked_up leads few_shot")


def test_passages_without_a_clear_gain_decide_nothing(tmp_path: Path) -> None:
    level = [loss + noise - 0.05 for loss, noise in zip(losses(1.7), NOISY, strict=True)]
    found = decide(case(tmp_path, passages=level, style={"loss": 1.9}), style=800)
    assert found["decision"] == "prompt"
    assert not said(found, "No variant with `passages` was scored")
    untried = decide(case(tmp_path / "two", style={"loss": 1.9}), style=800)
    assert said(untried, "No variant with `passages` was scored")
    assert not said(decide(case(tmp_path / "three", style={"loss": 1.2}), style=800), "No variant with")


def test_few_test_rows_are_mentioned(tmp_path: Path) -> None:
    assert not said(decide(case(tmp_path).changed(test_rows=100)), "The test split has")
    rows = {"plain": {"kind": "base", "losses": losses(2.0)[:10]}}
    comparison = compare({"a/prompt_baseline": scored(tmp_path / "few", rows)}, CONFIG)
    assert said(decide(comparison), "The test split has 10 conversations, fewer than 100")


def test_rows_computed_in_different_types_are_named(tmp_path: Path) -> None:
    comparison = case(tmp_path, style={"loss": 1.2, "computed_in": "float32"})
    assert not said(decide(comparison), "different types")  # the others were scored before types were recorded
    rows = [row.model_copy(update={"computed_in": row.computed_in or "bfloat16"}) for row in comparison.rows]
    words = "different types (few_shot, base in bfloat16; style/adapter, style/merged in float32)"
    assert said(decide(comparison.changed(rows=rows)), words)
