"""How often looking makes a model champion that is not better, and what is still found after many looks.

    python -m benchmarks.looks

A few minutes. Results go to benchmarks/results/looks.json.

A world has 134 test conversations, a prompt, and tuned models that are right as often. Each look is written to a
ledger, and the project's own code counts, decides and says so. What is hard for one model is hard for the others, as in
verdict_rates.py. Three kinds of lines: who looks often and decides once; who keeps what looks better; and a year of
nights. `at_most` and `at_least` say what is promised.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

from benchmarks import machine
from ft_pipeline.decide.exposure import USED_UP, Exposure
from ft_pipeline.decide.exposure_ledger import Entry, Look
from ft_pipeline.decide.looks import exposure_of
from ft_pipeline.decide.notes import exposure_note
from ft_pipeline.evaluation.comparison.leads import Conversations, lead_values, p_value
from ft_pipeline.settings.promotion import PromotionSettings

RESULTS = Path(__file__).parent / "results" / "looks.json"
ROWS, RIGHT, SHARED = 134, 0.7, 0.7
"""Test conversations; share of right answers; correlation of what is hard."""
PROMISED = PromotionSettings().false_moves
SETTINGS: dict[str, Any] = {"promotion.metric": "exact_match"}
Rows = np.ndarray
"""Of one model, which answers are right: 1 or 0, of shape (conversations,)."""


@dataclass
class World:
    """A test split with a prompt, and the ledger of looks at tuned models."""

    random: np.random.Generator
    right: float = RIGHT
    count: int = ROWS
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared = self.random.normal(size=self.count)
        self.prompt = self.answers(self.luck())

    @property
    def ids(self) -> list[str]:
        return [str(number) for number in range(self.count)]

    def luck(self) -> Rows:
        """Return what is hard for one model only."""
        return self.random.normal(size=self.count)

    def answers(self, luck: Rows, lead: float = 0.0) -> Rows:
        """Return the answers of a model that is right in `lead` more of all answers than the prompt."""
        hard = math.sqrt(SHARED) * self.shared + math.sqrt(1 - SHARED) * luck
        return (hard < ndtri(self.right + lead)).astype(float)

    def grow(self, count: int, *, easy: bool = False) -> None:
        """Add fresh test conversations; easy ones are right for everybody."""
        fresh = np.full(count, -9.0) if easy else self.random.normal(size=count)
        self.shared, self.count = np.concatenate([self.shared, fresh]), self.count + count

    def look(self, design: str, compared: str = "", settings: dict[str, Any] | None = None) -> Look:
        """Write a look at a model of some settings to the ledger."""
        number = len(self.entries) + 1
        look = Look(f"{design} {number}", design, design)
        ids = frozenset(self.ids)
        self.entries.append(Entry(number, [look], compared, settings or SETTINGS, "", ids))
        return look

    def exposure(self, look: Look, values: Rows | None = None) -> Exposure:
        """Return what the test of a look must allow for. values: of its lead, which say how much each row tells."""
        squares = [] if values is None else (values[: self.count] ** 2).tolist()
        weights = {"t": dict(zip(self.ids, squares, strict=True))} if squares else {}
        return exposure_of(self.entries, self.ids, {"t": look}, weights)

    def passes(self, tuned: Rows, rival: Rows, look: Look) -> bool:
        """Return whether a tuned model is shown to be better, at the level that the ledger leaves."""
        values = values_of(tuned, rival)
        exposure, p = self.exposure(look, values), p_value(values)
        if exposure.tries("t").designs >= USED_UP or p is None:
            return False
        return p <= exposure.level(PROMISED, "t", is_tuned=True)


def values_of(tuned: Rows, rival: Rows) -> Rows:
    """Return the values of a lead, as the comparison makes them."""
    conversations = Conversations([f"{number:09d}" for number in range(len(tuned))])
    ours, theirs = conversations.means(np.stack([tuned, rival], axis=1), is_rate=True)
    return lead_values(ours, theirs, lower_is_better=False)


# --- who looks often ------------------------------------------------------------------------------------------------


def best_of(world: World, looks: int) -> bool:
    """Look at models that are as good as the prompt, keep the one with the most right answers, and decide once."""
    best, seen = world.prompt, world.look("0")
    for number in range(looks):
        look, tuned = world.look(str(number)), world.answers(world.luck())
        if number == 0 or tuned.sum() > best.sum():
            best, seen = tuned, look
    return world.passes(best, world.prompt, replace(seen, identity="decided"))


def climb(world: World, looks: int, changed: float) -> bool:
    """Change a share of the answers by luck at every look, keep what is right more often, and decide at every look."""
    luck = world.luck()
    best = world.answers(luck)
    if world.passes(best, world.prompt, world.look("0", "0")):
        return True
    for number in range(1, looks):
        tried = np.where(world.random.random(world.count) < changed, world.luck(), luck)
        tuned, look = world.answers(tried), world.look(str(number), str(number))
        if tuned.sum() > best.sum():
            luck, best = tried, tuned
            if world.passes(best, world.prompt, look):
                return True
    return False


def name_a_metric(world: World) -> bool:
    """Look at a model by five metrics, and name the one by which it leads most."""
    pairs = [(world.answers(world.luck()), world.answers(world.luck())) for _ in range(5)]
    world.look("t")
    tuned, prompt = max(pairs, key=lambda pair: float(pair[0].sum() - pair[1].sum()))
    return world.passes(tuned, prompt, world.look("t", "k", {"promotion.metric": "another"}))


def drop_rows(world: World) -> bool:
    """Look at a model, and drop the tenth of the rows, of five that could be called unfit, without which it leads
    most."""
    tuned = world.answers(world.luck())
    world.look("t")
    kept = [world.random.random(world.count) > 0.1 for _ in range(5)]
    best = max(kept, key=lambda rows: float((tuned - world.prompt)[rows].mean()))
    left = World(world.random, count=int(best.sum()), entries=world.entries)
    return left.passes(tuned[best], world.prompt[best], replace(left.look("t", "k"), identity="fewer rows"))


def easy_rows(world: World) -> bool:
    """Keep the best of 20 looks, then add 1,340 test conversations that every model answers right."""
    tuned = max((world.answers(world.luck()) for _ in range(20)), key=np.sum)
    for number in range(20):
        look = world.look(str(number))
    easy = np.ones(1340)
    world.grow(1340, easy=True)
    both = np.concatenate([tuned, easy]), np.concatenate([world.prompt, easy])
    return world.passes(*both, replace(look, identity="more rows"))


def find(world: World, lead: float) -> bool:
    """Look at 20 models that are no better, then at one that is."""
    for number in range(20):
        world.look(str(number))
    return world.passes(world.answers(world.luck(), lead), world.prompt, world.look("better", "k"))


# --- a year of nights -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nights:
    """What a year of nightly retraining with the same settings came to."""

    false_moves: int
    """Moves to a model that is not better."""
    found: list[int | None]
    """Nights until each true improvement was found; None: not before the next one."""
    told: str
    """What is said about fresh test conversations at the end."""


def nights(world: World, fresh: int, steps: dict[int, float], length: int = 365) -> Nights:
    """Retrain every night; with other data, luck is another one. steps: by night, how much better models are from then
    on."""
    champion, level, moved, quality, false_moves = world.luck(), 0.0, 0, 0.0, 0
    since, found = None, []
    for night in range(length):
        if night in steps:
            found += [None] if since is not None else []
            quality, since = quality + steps[night], night
        world.grow(fresh)
        champion = np.concatenate([champion, world.random.normal(size=fresh)])
        luck, look = world.luck(), world.look("nightly", str(night))
        tuned, standing = world.answers(luck, quality), world.answers(champion, level)
        world.entries = world.entries[moved:]
        moved = 0
        p = p_value(values_of(tuned, standing))
        if p is not None and p < PROMISED and world.passes(tuned, standing, look):
            false_moves += quality <= level
            if since is not None and quality > level:
                found, since = [*found, night - since], None
            champion, level, moved = luck, quality, len(world.entries)
    found += [None] if since is not None else []
    exposure = exposure_of(world.entries, world.ids)
    return Nights(false_moves, found, exposure_note(exposure, world.count, PROMISED))


def years(fresh: int, steps: dict[int, float], count: int, seed: int) -> dict[str, Any]:
    """Return what years of nights came to: rates, and what is told at the end of the first one."""
    worlds = (World(np.random.default_rng([seed, fresh, year]), 0.55) for year in range(count))
    lived = [nights(world, fresh, steps) for world in worlds]
    waits = [wait for year in lived for wait in year.found]
    soon = sorted(wait for wait in waits if wait is not None)
    return {
        "years": count,
        "with a false move": sum(year.false_moves > 0 for year in lived) / count,
        "improvements found": len(soon) / len(waits) if waits else None,
        "median nights until then": soon[len(soon) // 2] if soon else None,
        "told at the end": lived[0].told,
    }


# --- all lines ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """Something that is done in many worlds."""

    name: str
    do: Callable[[World], bool]
    at_most: float | None = PROMISED
    at_least: float | None = None
    right: float = RIGHT


def climbing(looks: int, changed: float) -> Callable[[World], bool]:
    """Return climb with these arguments."""
    return partial(climb, looks=looks, changed=changed)


LINES = [
    *(Line(f"best of {looks} looks", partial(best_of, looks=looks)) for looks in (10, 50, 100)),
    *(
        Line(f"hill climbing over {looks} looks, {changed:.0%} of the answers a step", climbing(looks, changed))
        for looks in (20, 50, 100)
        for changed in (0.05, 0.1, 0.3)
    ),
    Line("metric named after a look", name_a_metric),
    Line("rows dropped after a look", drop_rows),
    Line("1,340 easy fresh rows after 20 looks", easy_rows),
    Line("found after 20 looks: 80 to 95 % right", partial(find, lead=0.15), None, 0.6, right=0.8),
    Line("found after 20 looks: 70 to 85 % right", partial(find, lead=0.15), None, None),
]
STEPS = {60: 0.15, 180: 0.15, 300: 0.1}
"""By night: models that are right in 55 % become right in 70, 85 and 95 %."""


def measure(line: Line, count: int, seed: int = 0) -> float:
    """Return the share of worlds in which a tuned model passes."""
    number = LINES.index(line)
    generators = (np.random.default_rng([seed, number, world]) for world in range(count))
    return sum(line.do(World(random, line.right)) for random in generators) / count


def main() -> None:
    """Measure every line, print it, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=400)
    parser.add_argument("--years", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines: dict[str, Any] = {}
    for line in LINES:
        passes = measure(line, options.worlds, options.seed)
        lines[line.name] = {"passes": passes, "at_most": line.at_most, "at_least": line.at_least}
        print(f"{line.name}: {json.dumps(lines[line.name])}", flush=True)
    for fresh in (0, 2, 20):
        for name, steps in (("no improvement", {}), ("three improvements", STEPS)):
            line_name = f"365 nights, {fresh} fresh rows a day, {name}"
            lines[line_name] = years(fresh, steps, options.years, options.seed)
            print(f"{line_name}: {json.dumps(lines[line_name])}", flush=True)
    document = {"machine": machine.describe(), "worlds": options.worlds, "seed": options.seed, "lines": lines}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
