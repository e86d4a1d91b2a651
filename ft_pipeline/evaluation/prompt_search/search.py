"""The search itself: which prompt is tried next, when it ends, and which prompt wins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ft_pipeline.evaluation.prompt_search.space import PLAIN, Space, Values, Variant
from ft_pipeline.evaluation.prompt_search.tries import WRITTEN, Measured, Try, add_try, best_of, is_written, read_tries

MOST_ROWS = 64
"""Validation conversations that prompts are compared on: the first ones by their ids, which are hashes."""
PATIENCE = 20
"""Tries without a better prompt after which the search ends."""
KEPT_INSTRUCTIONS = 3
"""Of those that a model wrote, the number that is tried with other examples: the best ones."""
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


Write = Callable[[Variant, Callable[[Variant], Try], Callable[[], bool]], None]
"""Writes instructions: start (the prompt whose instruction is changed), attempt (tries a prompt), has_tries_left."""


def search(
    space: Space,
    measure: Callable[[Variant], Measured],
    file: Path,
    *,
    tries: int,
    seed: int,
    report: Callable[[Try, Try], None] = lambda tried, best: None,
    write: Write | None = None,
) -> Found:
    """Try prompts until there are `tries` of them, or nothing more is to be gained.

    measure: scores a prompt on the validation rows. file: the tries so far; a search that was stopped goes on with them
    and ends with the same prompt. report: called with each new try, and the best one so far. write: tries instructions
    that a model writes, with at most half of the tries that the prompts of the project leave.
    """
    done = read_tries(file)

    def attempt(prompt: Variant, name: str | None = None, values: Values | None = None) -> Try:
        tried = Try(len(done) + 1, name, prompt, measure(prompt), values or {})
        add_try(file, tried)
        done.append(tried)
        report(tried, best_of(done))
        return tried

    used: set[int] = set()
    """Numbers of the tries with an instruction that was written, be it before an interruption."""

    def attempt_written(prompt: Variant) -> Try:
        known = next((each for each in done if each.variant == prompt), None)
        tried = known or attempt(prompt, f"{WRITTEN}{len(used) + 1}")
        used.update({tried.number} if is_written(tried) else ())
        return tried

    first = list(space.first.items())
    for name, prompt in first[len(done) : tries]:
        attempt(prompt, name)
    if len(done) == len(first) > 1 and best_of(done).name == PLAIN:
        return Found(done, NOTHING_TO_GAIN)
    if write is not None and len(done) >= len(first):
        write(best_of(done[: len(first)]).variant, attempt_written, lambda: len(used) < (tries - len(first)) // 2)
    written = sorted(filter(is_written, done), key=lambda each: each.order)[:KEPT_INSTRUCTIONS]
    space = replace(space, written=[each.variant for each in written])
    begun = max((each.number for each in done if is_written(each)), default=0)
    while len(done) < tries:
        if len(done) - max(best_of(done).number, begun) >= PATIENCE:
            return Found(done, f"{PATIENCE} tries in a row brought nothing")
        best_first = sorted(done, key=lambda each: each.order)
        proposed = space.propose([(each.values, each.variant) for each in best_first], seed)
        if proposed is None:
            return Found(done, ALL_WERE_TRIED)
        values, prompt = proposed
        attempt(prompt, values=values)
    return Found(done, "")
