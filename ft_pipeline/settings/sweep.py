"""Sweep members of an experiment: other seeds, and shares of its rows. Each is trained as a separate experiment."""

import re

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.feature_keys import defaults_of_features

_MEMBER_NAME = re.compile(r"(?P<owner>.+)\.(?P<type>seed|at)(?P<number>\d+)")
"""Names of sweep members. An experiment never has such a name, because names of experiments contain no dot."""


def sweep_members(name: str, settings: ExperimentSettings) -> dict[str, ExperimentSettings]:
    """Return the settings of the sweep members of an experiment, by name.

    `NAME.seed1`, `NAME.seed2`, … are the other seeds, and `NAME.at25` is a point of the learning curve.
    """
    member = settings.model_copy(
        update={"seeds": 1, "learning_curve": [], "retrain": False}
        | defaults_of_features("experiment")
        | _without_noise_measurement(settings)
    )
    members = {}
    for number in range(1, settings.seeds):
        training = settings.training.model_copy(update={"seed": settings.training.seed + number})
        members[f"{name}.seed{number}"] = member.model_copy(update={"training": training})
    for share in settings.learning_curve:
        data = settings.data.model_copy(update={"share": settings.data.share * share})
        members[f"{name}.at{round(100 * share)}"] = member.model_copy(update={"data": data})
    return members


def sweep_owner(name: str) -> str:
    """Return the experiment that the sweep member `name` belongs to; `name` itself if it is not a member."""
    match = _MEMBER_NAME.fullmatch(name)
    return match["owner"] if match else name


def is_sweep_member(name: str) -> bool:
    """Return whether `name` is a sweep member of another experiment, and therefore not a candidate."""
    return sweep_owner(name) != name


def learning_curve_share(name: str) -> float | None:
    """Return the share of the experiment's rows that a point of its learning curve trains on; None for other names."""
    match = _MEMBER_NAME.fullmatch(name)
    return int(match["number"]) / 100 if match and match["type"] == "at" else None


def _without_noise_measurement(settings: ExperimentSettings) -> dict[str, object]:
    """Return the change that turns off the measurement of the quantization noise. Only the experiment measures it."""
    if settings.technique != "qlora":
        return {}
    return {"merge": settings.merge.model_copy(update={"measure_noise": False})}
