"""What the settings of an experiment must know of its objective: the core's objectives, and those of features."""

from dataclasses import dataclass
from functools import cache
from pkgutil import resolve_name

from ft_pipeline.features import features


@dataclass(frozen=True, kw_only=True)
class ObjectiveRules:
    """One objective. The texts are parts of error messages."""

    spec: str = ""
    """`module:name` of its ObjectiveSpec; empty if the core has it (training/objectives/registry.py)."""
    section: str | None = None
    """The section of its settings, which no other objective may change."""
    others: str = ""
    """What objectives without the section do, after their name: `has no rewards`."""
    rows: str | None = None
    """What it trains on. None: on the sources that `data.weights` weighs."""
    no_prompt_tuning: str = ""
    """Why it does not work with `prompt_tuning`; empty if it does."""
    starts_trained: bool = False
    """Whether it improves a model that is trained already, with a lower learning rate."""
    draws_answers: bool = False
    """Whether the model draws the answers that it trains on."""


_CORE = {
    "sft": ObjectiveRules(),
    "cpt": ObjectiveRules(
        rows="data/raw/text",
        no_prompt_tuning="a few virtual tokens can steer the model, but cannot store texts",
    ),
    "distill": ObjectiveRules(rows="the answers of its teacher"),
}


@cache
def objective_rules() -> dict[str, ObjectiveRules]:
    """Return the rules of each objective by its name."""
    added = {name: resolve_name(path) for each in features().values() for name, path in each.objectives.items()}
    return _CORE | added


def objective_sections() -> dict[str, str]:
    """Return section of an experiment → the objective whose settings it has."""
    return {rules.section: name for name, rules in objective_rules().items() if rules.section}
