"""The search itself: which prompt is tried next, when it ends, and which prompt wins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.evaluation.prompt_search.space import PLAIN, Space, Values, Variant
from ft_pipeline.evaluation.prompt_search.tries import Measured, Try, add_try, best_of, read_tries

MOST_ROWS = 64
"""Validation conversations that prompts are compared on: the first ones by their ids, which are hashes."""
PATIENCE = 20
"""Tries without a better prompt after which the search ends."""
ALL_WERE_TRIED = "all prompts were tried"
NOTHING_TO_GAIN = "neither the given prompts, nor one instruction, nor retrieved examples were better than no prompt"


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    tries: Sequence[Try]
    ended: str
    """Why there are not more of them; empty: the number that was asked for."""

    @property
    def best(self) -> Try:
        return best_of(self.tries)


def search(
    space: Space,
    measure: Callable[[Variant], Measured],
    file: Path,
    *,
    tries: int,
    seed: int,
    report: Callable[[Try, Try], None] = lambda tried, best: None,
) -> Found:
    """Try prompts until there are `tries` of them, or nothing more is to be gained.

    measure: scores a prompt on the validation rows. file: the tries so far; a search that was stopped goes on with them
    and ends with the same prompt. report: called with each new try, and the best one so far.
    """
    done = read_tries(file)
    first = list(space.first.items())
    while len(done) < tries:
        if ended := _why_it_ends(done, len(first)):
            return Found(done, ended)
        if len(done) < len(first):
            name, variant = first[len(done)]
            values: Values = {}
        else:
            best_first = sorted(done, key=lambda each: each.order)
            proposed = space.propose([(each.values, each.variant) for each in best_first], seed)
            if proposed is None:
                return Found(done, ALL_WERE_TRIED)
            (values, variant), name = proposed, None
        tried = Try(len(done) + 1, name, variant, measure(variant), values)
        add_try(file, tried)
        done.append(tried)
        report(tried, best_of(done))
    return Found(done, "")


def _why_it_ends(done: Sequence[Try], first: int) -> str:
    """Return why no further prompt is tried; empty if one is. first: number of the prompts that are tried first."""
    if len(done) < first:
        return ""
    best = best_of(done)
    if len(done) == first > 1 and best.name == PLAIN:
        return NOTHING_TO_GAIN
    return f"{PATIENCE} tries in a row brought nothing" if len(done) - best.number >= PATIENCE else ""
