"""The phases of an experiment as it was materialized, and its settings as the specs of several steps contain them."""

from dataclasses import dataclass
from typing import Any

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.learning_rates import with_learning_rate
from ft_pipeline.step import SpecContext
from ft_pipeline.store.artifacts import Artifact


@dataclass(frozen=True)
class Phase:
    """One experiment of the chain."""

    name: str
    settings: ExperimentSettings


def experiment_phases(context: SpecContext) -> list[Phase]:
    """Return the phases that `experiment` was materialized with, whatever the YAML files are now.

    The experiment itself is the last phase.
    """
    config = context.artifact("experiment").spec["config"]
    own = {key: value for key, value in config.items() if key != "stages_before"}
    return [_as_phase(phase) for phase in (*config["stages_before"], own)]


def experiment_settings(context: SpecContext) -> ExperimentSettings:
    """Return the settings that `experiment` was materialized with, whatever the YAML file is now."""
    return experiment_phases(context)[-1].settings


def _as_phase(config: dict[str, Any]) -> Phase:
    settings = {key: value for key, value in config.items() if key != "name"}
    return Phase(config["name"], ExperimentSettings.model_validate(settings))


def settings_for_base(settings: ExperimentSettings, base: Artifact) -> ExperimentSettings:
    """Return the settings as specs contain them: with the learning rate for the size of `base`, without trackers."""
    return without_trackers(with_learning_rate(settings, base.summary["params"]))


def without_trackers(settings: ExperimentSettings) -> ExperimentSettings:
    """Return the settings without trackers, because these change no result."""
    return settings.model_copy(update={"training": settings.training.model_copy(update={"report_to": []})})
