"""Sweep members of an experiment: other seeds, and shares of its rows. Each is trained as a separate experiment."""

import re

from ft_pipeline.settings.experiment import ExperimentSettings

_MEMBER = re.compile(r"(?P<owner>.+)\.(?P<what>seed|at)(?P<number>\d+)")
"""Names of experiments contain no dot, so that no experiment has the name of a member."""


def sweep_members(name: str, settings: ExperimentSettings) -> dict[str, ExperimentSettings]:
    """Sweep members by name: `NAME.seed1`, `NAME.seed2`, … for seeds, `NAME.at25` for a point of the learning curve."""
    alone = settings.model_copy(update={"seeds": 1, "learning_curve": [], "retrain": False, **_no_noise(settings)})
    training, data = settings.training, settings.data
    members = {
        f"{name}.seed{number}": alone.model_copy(
            update={"training": training.model_copy(update={"seed": training.seed + number})}
        )
        for number in range(1, settings.seeds)
    }
    for share in settings.learning_curve:
        less = data.model_copy(update={"share": data.share * share})
        members[f"{name}.at{round(100 * share)}"] = alone.model_copy(update={"data": less})
    return members


def sweep_owner(name: str) -> str:
    """The experiment that the sweep member `name` belongs to; `name` itself if it is not a member."""
    match = _MEMBER.fullmatch(name)
    return match["owner"] if match else name


def is_sweep_member(name: str) -> bool:
    """Whether `name` is a sweep member of another experiment, and therefore not a candidate."""
    return sweep_owner(name) != name


def share_of(name: str) -> float | None:
    """The share of its experiment's rows that a point of a learning curve trains on; None for any other name."""
    match = _MEMBER.fullmatch(name)
    return int(match["number"]) / 100 if match and match["what"] == "at" else None


def _no_noise(settings: ExperimentSettings) -> dict[str, object]:
    """The change that turns off the measurement of the quantization noise: only the experiment itself measures it."""
    if settings.technique != "qlora":
        return {}
    return {"merge": settings.merge.model_copy(update={"measure_noise": False})}
