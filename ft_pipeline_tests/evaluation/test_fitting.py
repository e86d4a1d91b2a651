"""Which objectives fit the data of a project."""

from pathlib import Path

from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.evaluation.metrics.single_answers import checks_of
from ft_pipeline.settings.evaluation import EvaluationSettings
from ft_pipeline_tests.decide.rules import desk_of
from ft_pipeline_tests.evaluation.test_recommendation import case

EXPERIMENTS = {"sft": ["style", "later"], "dpo": ["dpo"]}


def reason(at_hand: DataAtHand, folder: Path, prompted: float = 1.7) -> str:
    comparison = case(folder, prompted=prompted, style={"loss": 1.2})
    reasons = recommend(desk_of(comparison, {}, 20, None, at_hand))["reasons"]
    return next((text for text in reasons if text.startswith("With what")), "")


def test_each_kind_of_data_names_its_objective_and_experiments(tmp_path: Path) -> None:
    at_hand = DataAtHand(["conversations", "preferences", "text"], ["order", "fields_match"], EXPERIMENTS)
    assert reason(at_hand, tmp_path) == (
        "With what (docs/objectives.md): Articles fit `cpt`, of which the project has no experiment. Messages without "
        "answers, under the prompt few_shot, which helps, fit `distill`, of which the project has no experiment. "
        "Preference pairs fit `dpo` (dpo: not trained yet). Answers that are checked (order, fields_match) fit `grpo`, "
        "of which the project has no experiment. Answers to imitate fit `sft` (style, later)."
    )


def test_what_is_not_there_is_not_named(tmp_path: Path) -> None:
    at_hand = DataAtHand(["conversations"], [], EXPERIMENTS)
    assert reason(at_hand, tmp_path, prompted=2.0) == (
        "With what (docs/objectives.md): Answers to imitate fit `sft` (style, later)."
    )
    assert reason(DataAtHand([], [], {}), tmp_path / "none", prompted=2.0) == ""


def test_the_checks_of_a_project_are_those_of_single_answers() -> None:
    settings = {
        "answer_format": {"type": "json", "keys": ["a"]},
        "metrics": {
            "order": {"function": "checks.order"},
            "whole": {"function": "checks.whole", "corpus": True},
        },
    }
    assert checks_of(EvaluationSettings.model_validate(settings)) == ["format_valid", "fields_match", "order"]
    assert checks_of(EvaluationSettings()) == []
