"""The default learning rate of an experiment."""

from typing import Any

import pytest

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.learning_rates import BASE_RATES, default_learning_rate, with_learning_rate
from ft_pipeline.settings.training import TrainingSettings

SMALL, LARGE = 134_515_008, 1_711_376_384
"""Parameters of SmolLM2-135M and SmolLM2-1.7B."""


@pytest.mark.parametrize(
    ("technique", "objective", "params", "rate"),
    [
        ("qlora", "sft", SMALL, 1e-3),
        ("lora", "cpt", SMALL, 1e-3),
        ("prompt_tuning", "sft", SMALL, 1e-2),
        ("full", "cpt", SMALL, 5e-5),
        ("lora", "dpo", SMALL, 1e-4),
        ("full", "dpo", SMALL, 5e-6),
        ("qlora", "sft", 999_999_999, 1e-3),
        ("qlora", "sft", 1_000_000_000, 2e-4),
        ("full", "sft", LARGE, 1e-5),
        ("lora", "dpo", LARGE, 2e-5),
    ],
)
def test_the_learning_rate_follows_technique_objective_and_size(
    technique: Any, objective: Any, params: int, rate: float
) -> None:
    assert default_learning_rate(technique, objective, params) == pytest.approx(rate, rel=1e-12)
    settings = ExperimentSettings.model_validate({"technique": technique, "objective": objective})
    assert settings.training.learning_rate is None
    assert with_learning_rate(settings, params).training.learning_rate == default_learning_rate(
        technique, objective, params
    )


def test_an_explicit_learning_rate_is_used_for_any_model_size() -> None:
    settings = ExperimentSettings.model_validate({"technique": "full", "training": {"learning_rate": 0.5}})
    assert with_learning_rate(settings, LARGE) == settings


def test_the_description_of_the_setting_names_every_usual_rate() -> None:
    description = str(TrainingSettings.model_fields["learning_rate"].description)
    for rate in BASE_RATES.values():
        assert f"{rate:.0e}".replace("e-0", "e-") in description
