"""The record of a verdict, and its kinds."""

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel

from ft_pipeline.decide.claim import Claim, more_would_decide
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.sentences import say_of

Open = Literal["undecided", "rate", "measure", "train"]
"""Nothing is decided yet. rate: the sentence asks people to rate answers. measure: it names general questions, probes
or a task that do not show yet whether the tuned model keeps what its base model had. train: it names what no
measurement settles, but another training may."""
Kind = Literal["use_tuned", "prompt", "retrieval", Open, "keep", "none", "replace", "classifier", "search"]
OPEN: Sequence[str] = get_args(Open)
ASKING = ("lead", "no_evidence"), ("opinion", "unheard")
"""Kind and reason of claims whose sentences ask people to rate answers."""
MEASURED = ("general", "probes", "task")
"""Kinds of claims that rest on other questions than the test rows."""


class Verdict(BaseModel, frozen=True):
    """What to do."""

    kind: Kind
    sentence: str
    basis: str
    """What it rests on: how many trainings, and what decided. Empty if nothing was compared."""
    row: str | None
    """The row that it names."""


def asking(asks: bool) -> Open:
    """Return the kind of an open verdict. asks: whether its sentence asks people to rate answers."""
    return "rate" if asks else "undecided"


def asks_people(claim: Claim) -> bool:
    """Return whether the sentence of a claim asks people to rate answers."""
    return (claim.kind, claim.because) in ASKING


def only_training_helps(claim: Claim) -> bool:
    """Return whether a claim is that a check of a training failed, or that no suite has enough questions to show that
    the model keeps what its base model had."""
    is_at_margin = claim.kind in MEASURED and claim.verdict == "open" and claim.value is not None
    return claim.kind == "gate" or (is_at_margin and not more_would_decide(claim))


def kind_of(claim: Claim, *, asks: bool = False) -> Open:
    """Return the kind of an open verdict whose sentence tells a claim. asks: whether it asks for ratings, too."""
    if asks:
        return "rate"
    if only_training_helps(claim):
        return "train"
    return "measure" if claim.kind in MEASURED else asking(asks_people(claim))


def why_open(comparison: Comparison, claim: Claim) -> str:
    """Return a claim that fails as a sentence about its row; where a check failed, with what to do."""
    fix = ": correct what it names, and train again" if claim.kind == "gate" else ""
    return f"{say_of(comparison, claim)}{fix}"


def not_decided(why: str, basis: str, row: str | None, kind: Open) -> Verdict:
    """Return that nothing is decided. why: sentences with their full stops."""
    first = why[0].lower() if why.startswith("The ") else why[0]
    return Verdict(kind=kind, sentence=f"Not decided yet: {first}{why[1:]}", basis=basis, row=row)
