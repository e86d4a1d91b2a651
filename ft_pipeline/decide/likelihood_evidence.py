"""Whether the likelihood of the reference answers says which of two models is better.

It does if both imitate. A model that learned from preferences or rewards is made to write better answers, which are
others than the references. So it may be better while it predicts the references worse.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

LIKELIHOODS = ("nats_per_byte", "loss", "stop_nats")
"""Metrics that a model without likelihoods, as behind an endpoint, does not have."""
LEARNED = {"preferences": "to prefer", "rewards": "for rewards"}
"""What a model was trained for, by ObjectiveSpec.learns_from. All others imitate."""
DECIDE_BY = "decide by ratings (`ft rate`), a judge, or a check with `decides: true`"


class Learner(Protocol):
    """A scored model, or a row."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def experiment(self) -> str | None: ...
    @property
    def learned_from(self) -> str | None: ...


def why_no_evidence(first: Learner, second: Learner) -> str | None:
    """Return why the likelihood of the references says nothing about two models, as a clause; None if it does.

    It does between the forms of one training: there it shows what merging or a prompt changes.
    """
    same_training = first.experiment is not None and first.experiment == second.experiment
    if same_training and "champion" not in (first.kind, second.kind):
        return None
    learned = {each.name: LEARNED[each.learned_from] for each in (first, second) if each.learned_from}
    if not learned:
        return None
    trained = " and ".join(f"{name} was trained {purpose}" for name, purpose in learned.items())
    whose = "its" if len(learned) == 1 else "their"
    return f"{trained}, not to imitate, so that {whose} likelihood of the references is no evidence"


def learned_rows(rows: Iterable[Learner]) -> list[str]:
    """Return, for each purpose other than imitation, which rows were trained for it: a clause each."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.learned_from:
            names.setdefault(LEARNED[row.learned_from], []).append(row.name)
    return [f"{_listed(trained)} {_were(trained)} trained {purpose}" for purpose, trained in names.items()]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"
