"""Whether `ft worth` names what is there, and nothing else.

    python -m benchmarks.worth --worlds 400

A world is 480 rows of the classification example, drawn again each time, in files that chance or a plant has filled.
The project's own code learns, compares and lists. 400 worlds take over an hour on two cores. Results go to
benchmarks/results/worth.json.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worlds import run
from ft_pipeline.evaluation.comparison.slice_members import Talk
from ft_pipeline.worth.answer import worth_of
from ft_pipeline.worth.cross_validation import Folds
from ft_pipeline.worth.effects import effects_of
from ft_pipeline.worth.known_rows import KnownRow, groups_by, units_of

ROOT = Path(__file__).parent.parent
RAW = ROOT / "examples" / "classification" / "data" / "raw" / "alpaca"
RESULTS = ROOT / "benchmarks" / "results" / "worth.json"
ROWS = 480
NULL_FILES = 12
WRONG = 0.1
"""The share of labels that are planted wrong."""
Drawn = tuple[list[KnownRow], np.random.Generator]


def pool() -> list[KnownRow]:
    """Return all rows of the example, its test rows included: here they are no test rows."""
    rows = [json.loads(line) for path in sorted(RAW.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [
        KnownRow(Talk(str(number), row["instruction"], 1, 0, (), "alpaca", "", "en"), row["output"], row["group"])
        for number, row in enumerate(rows)
    ]


def in_file(row: KnownRow, file: str) -> KnownRow:
    """Return a row in another file."""
    return replace(row, talk=replace(row.talk, file=file))


def draw(rows: Sequence[KnownRow], seed: int) -> Drawn:
    """Return some of the rows, and what draws further."""
    generator = np.random.default_rng(seed)
    return [rows[number] for number in sorted(generator.choice(len(rows), ROWS, replace=False).tolist())], generator


def in_files(rows: Sequence[KnownRow], count: int, generator: np.random.Generator) -> list[KnownRow]:
    """Put each row into one of so many files of equal size, by chance."""
    numbers = generator.permutation(np.arange(len(rows)) % count).tolist()
    return [in_file(row, f"{number}.jsonl") for row, number in zip(rows, numbers, strict=True)]


def named(rows: Sequence[KnownRow], seed: int) -> dict[str, str]:
    """Return file → what is shown of it, without those of which nothing is."""
    groups = worth_of(rows, "file", {}, most_groups=99, seed=seed)["groups"]
    return {group["group"]: group["finding"] for group in groups if group["finding"] != "open"}


def null(rows: Sequence[KnownRow], seed: int) -> dict[str, float]:
    """Twelve files of chance: how often one is named, and whether the interval of one alone covers zero."""
    drawn, generator = draw(rows, seed)
    drawn = in_files(drawn, NULL_FILES, generator)
    units = units_of(drawn)
    folds = Folds.of([row.talk.question for row in drawn], [row.label for row in drawn], units, seed)
    groups, whole = groups_by(drawn, "file", {}), folds.probabilities()
    (first,) = effects_of(folds, whole, dict([next(iter(groups.items()))]), units, seed=seed)
    findings = [effect.finding for effect in effects_of(folds, whole, groups, units, seed=seed)]
    assert first.over_others is not None
    low, high = first.over_others.ends
    return {"names_one": float(any(finding != "open" for finding in findings)), "covers_zero": float(low <= 0 <= high)}


def third(rows: Sequence[KnownRow], seed: int) -> dict[str, float]:
    """Three files of chance: none is named, though a third of the rows is missed."""
    drawn, generator = draw(rows, seed)
    return {"names_one": float(bool(named(in_files(drawn, 3, generator), seed)))}


def duplicate(rows: Sequence[KnownRow], seed: int) -> dict[str, float]:
    """A file of chance comes twice, in other words at the beginning: neither is named."""
    drawn, generator = draw(rows, seed)
    drawn = in_files(drawn, 6, generator)
    copied = [row.talk for row in drawn if row.talk.file == "0.jsonl"]
    again = {talk.id: replace(talk, id=f"{talk.id} again", question=f"Hello, {talk.question}") for talk in copied}
    copies = [in_file(replace(row, talk=again[row.talk.id]), "again.jsonl") for row in drawn if row.talk.id in again]
    return {"names_one": float(bool(named([*drawn, *copies], seed)))}


def harmful(rows: Sequence[KnownRow], seed: int, files: int = 6) -> dict[str, float]:
    """One of six files has shuffled answers: it is named as harmful, and no other file is."""
    drawn, generator = draw(rows, seed)
    drawn = in_files(drawn, files, generator)
    places = [place for place, row in enumerate(drawn) if row.talk.file == "0.jsonl"]
    labels = generator.permutation([drawn[place].label for place in places]).tolist()
    for place, label in zip(places, labels, strict=True):
        drawn[place] = replace(drawn[place], label=label)
    found = named(drawn, seed)
    is_found = found.pop("alpaca/0.jsonl", "open") == "harms"
    return {"found": float(is_found), "names_another": float(bool(found))}


def harmful_third(rows: Sequence[KnownRow], seed: int) -> dict[str, float]:
    """The same of one of three files."""
    return harmful(rows, seed, files=3)


def mislabeled(rows: Sequence[KnownRow], seed: int) -> dict[str, float]:
    """In one of six files, one label is always called as another: how often it is named as harmful, or as needed."""
    drawn, generator = draw(rows, seed)
    wrong, called = generator.choice(sorted({row.label for row in drawn}), 2, replace=False).tolist()
    drawn = [
        replace(row, label=called) if row.label == wrong and row.talk.file == "0.jsonl" else row
        for row in in_files(drawn, 6, generator)
    ]
    found = named(drawn, seed).get("alpaca/0.jsonl")
    return {"harms": float(found == "harms"), "needed": float(found == "needed")}


def alone(rows: Sequence[KnownRow], seed: int) -> dict[str, float]:
    """One file has all rows of a label: it is named as needed, and no other file is."""
    drawn, generator = draw(rows, seed)
    label = generator.choice(sorted({row.label for row in drawn})).item()
    drawn = [in_file(row, "only.jsonl") if row.label == label else row for row in in_files(drawn, 5, generator)]
    found = named(drawn, seed)
    is_found = found.pop("alpaca/only.jsonl", "open") == "needed"
    return {"found": float(is_found), "names_another": float(bool(found))}


def wrong(rows: Sequence[KnownRow], seed: int) -> dict[str, float]:
    """One label in ten is wrong: how many of them are within twice their number, and what is expected of them."""
    drawn, generator = draw(rows, seed)
    labels = sorted({row.label for row in drawn})
    planted = generator.choice(len(drawn), round(WRONG * len(drawn)), replace=False).tolist()
    for place in planted:
        others = [label for label in labels if label != drawn[place].label]
        drawn[place] = replace(drawn[place], label=generator.choice(others).item())
    found = worth_of(in_files(drawn, 2, generator), "file", {}, most_groups=1, seed=seed)["wrong_labels"]
    first = {row["id"] for row in found["rows"][: 2 * len(planted)]}
    share = sum(drawn[place].talk.id in first for place in planted) / len(planted)
    covers = float(found["low"] <= len(planted) <= found["high"])
    return {"share_found": share, "expected_of_planted": found["value"] / len(planted), "covers_planted": covers}


@dataclass(frozen=True)
class Line:
    """A kind of world."""

    world: Callable[[Sequence[KnownRow], int], dict[str, float]]

    @property
    def name(self) -> str:
        return self.world.__name__


LINES = tuple(map(Line, (null, third, duplicate, harmful, harmful_third, mislabeled, alone, wrong)))


def measure(line: Line, worlds: int, seed: int) -> dict[str, Any]:
    """Return the mean of each number over worlds, and the lowest of shares."""
    with ProcessPoolExecutor() as processes:
        found = list(processes.map(partial(line.world, pool()), range(seed, seed + worlds), chunksize=4))
    means = {name: round(float(np.mean([world[name] for world in found])), 4) for name in found[0]}
    lows = {f"{name}_lowest": round(min(world[name] for world in found), 4) for name in found[0] if "share" in name}
    return {"about": line.world.__doc__, **means, **lows}


if __name__ == "__main__":
    run(__doc__, RESULTS, LINES, measure)
