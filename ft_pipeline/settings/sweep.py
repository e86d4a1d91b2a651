"""What an experiment trains beside itself: other seeds, and shares of its rows; each is an experiment of its own."""

import re

from ft_pipeline.settings.experiment import ExperimentSettings

_MEMBER = re.compile(r"(?P<owner>.+)\.(?P<what>seed|at)(?P<number>\d+)")
"""No YAML's name holds a dot, so that a member is never taken for one."""


def sweep_members(name: str, settings: ExperimentSettings) -> dict[str, ExperimentSettings]:
    """By name, the others of the experiment's series: `NAME.seed1` and on, `NAME.at25` of a learning curve."""
    alone = settings.model_copy(update={"seeds": 1, "learning_curve": [], "retrain": False, **_no_noise(settings)})
    training, data = settings.training, settings.data
    found = {
        f"{name}.seed{number}": alone.model_copy(
            update={"training": training.model_copy(update={"seed": training.seed + number})}
        )
        for number in range(1, settings.seeds)
    }
    for share in settings.learning_curve:
        less = data.model_copy(update={"share": data.share * share})
        found[f"{name}.at{round(100 * share)}"] = alone.model_copy(update={"data": less})
    return found


def sweep_owner(name: str) -> str:
    """The experiment to whose series `name` belongs: itself, where it is no member of another's."""
    found = _MEMBER.fullmatch(name)
    return found["owner"] if found else name


def is_sweep_member(name: str) -> bool:
    """Whether it is trained beside another experiment, and so is no candidate of its own."""
    return sweep_owner(name) != name


def share_of(name: str) -> float | None:
    """The share of its experiment's rows that a point of a learning curve sees; None for anything else."""
    found = _MEMBER.fullmatch(name)
    return int(found["number"]) / 100 if found and found["what"] == "at" else None


def _no_noise(settings: ExperimentSettings) -> dict[str, object]:
    """What 4 bit costs is measured once, for the experiment itself."""
    if settings.technique != "qlora":
        return {}
    return {"merge": settings.merge.model_copy(update={"measure_noise": False})}
