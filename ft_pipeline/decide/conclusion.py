"""The record of a verdict, and its kinds."""

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel

from ft_pipeline.decide.claim import Claim

Open = Literal["undecided", "rate", "measure"]
"""Nothing is decided yet. rate: the sentence asks people to rate answers. measure: it names general questions, probes
or a task that do not show yet whether the tuned model keeps what its base model had."""
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


def kind_of(claim: Claim, *, asks: bool = False) -> Open:
    """Return the kind of an open verdict whose sentence tells a claim. asks: whether it asks for ratings, too."""
    return "measure" if claim.kind in MEASURED and not asks else asking(asks or asks_people(claim))


def not_decided(why: str, basis: str, row: str | None, kind: Open) -> Verdict:
    """Return that nothing is decided. why: sentences with their full stops."""
    first = why[0].lower() if why.startswith("The ") else why[0]
    return Verdict(kind=kind, sentence=f"Not decided yet: {first}{why[1:]}", basis=basis, row=row)
