"""The pairs of answers that people compare: two rows of the comparison, in an order and with sides fixed by hash.

The order takes one answer of each cluster of like questions before a second one of any, each chosen by hash. So a rater
who stops early has rated a fair sample, with as much evidence as there is.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.screened_out import screened_out
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.leads import unit_of
from ft_pipeline.evaluation.opinions.verdict_tables import hash_of_answer
from ft_pipeline.ratings.rating_ledger import Rating, Verdict, append_rating, newest, now, read_ratings, seed_of
from ft_pipeline.ratings.results import Result, result_of
from ft_pipeline.release.report.answers import conversations_of, turns_before
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, current_artifact
from ft_pipeline.store.locks import project_lock

COMMON = 30
"""Number of pairs, from the first, that every rater gets: from these their agreement is known."""
CHOICES = "1, 2, both or neither"
"""What a rater may say."""
_SIDES = {"1": 1, "2": 2}
_TIES: Mapping[str, Verdict] = {
    "both": "both_good",
    "both good": "both_good",
    "neither": "neither",
    "neither can go out": "neither",
}


@dataclass(frozen=True)
class Pair:
    """Two answers to one test item."""

    item: str
    turns: Sequence[Mapping[str, str]]
    """`role` and `text` of the conversation before the answer."""
    reference: str
    answers: Mapping[str, str]
    """By the name of the row."""
    unit: str
    """The cluster of its conversation."""

    @property
    def question(self) -> str:
        """The conversation before the answer, as one text. A single turn has no role."""
        if len(self.turns) == 1:
            return self.turns[0]["text"]
        return "\n\n".join(f"{turn['role']}: {turn['text']}" for turn in self.turns)

    def hash_of(self, name: str) -> str:
        """Return the SHA-256 of a row's answer."""
        return hash_of_answer(self.answers[name])


@dataclass(frozen=True)
class Match:
    """Two rows of the comparison, and their pairs of answers that differ, in the order in which they are rated."""

    store: Path
    comparison: Artifact
    candidate: str
    rival: str
    seed: str
    pairs: Sequence[Pair]
    identical: int
    """Number of test items with equal answers. They are ties, and are not shown."""

    @cached_property
    def by_item(self) -> dict[str, Pair]:
        return {pair.item: pair for pair in self.pairs}

    def result(self) -> Result:
        """Return the result of the verdicts on these pairs; there is at least one."""
        units = {pair.item: pair.unit for pair in self.pairs}
        return result_of(self.candidate, self.rival, self.ratings(), units)

    def side_of(self, name: str, pair: Pair, rater: str) -> int:
        """Return where a rater sees the answer of a row: 1 or 2."""
        first = 1 + _hash(self.seed, "side", pair.item, rater)[0] % 2
        return first if name == min(self.candidate, self.rival) else 3 - first

    def name_at(self, side: int, pair: Pair, rater: str) -> str:
        """Return the row whose answer a rater sees on a side."""
        return self.candidate if self.side_of(self.candidate, pair, rater) == side else self.rival

    def verdict_of(self, choice: str, pair: Pair, rater: str) -> Verdict | None:
        """Return the verdict of what a rater chose; None if it is not one of CHOICES."""
        choice = choice.strip().lower().removesuffix(".0")  # a spreadsheet may write numbers so
        if choice in _SIDES:
            return "candidate" if self.name_at(_SIDES[choice], pair, rater) == self.candidate else "rival"
        return _TIES.get(choice)

    def choice_of(self, rating: Rating, pair: Pair) -> str:
        """Return what a rater chose, of CHOICES."""
        if rating.verdict in ("candidate", "rival"):
            return str(
                self.side_of(self.candidate if rating.verdict == "candidate" else self.rival, pair, rating.rater)
            )
        return "both" if rating.verdict == "both_good" else "neither"

    def ratings(self) -> list[Rating]:
        """Return the verdicts on these pairs, the last one of each rater, as if these two rows had been rated.

        What counts are the answers, not the names: a model that was trained again and answers the same keeps its
        verdicts.
        """
        found = [self._oriented(rating) for rating in newest(read_ratings(self.store))]
        return [rating for rating in found if rating is not None]

    def pairs_for(self, rater: str, number: int, ratings: Sequence[Rating]) -> list[Pair]:
        """Return the first pairs that a rater gets: the common ones, then those that no other rater has rated."""
        own = {rating.item for rating in ratings if rating.rater == rater}
        others = {rating.item for rating in ratings if rating.rater != rater}
        first: list[Pair] = []
        last: list[Pair] = []
        for position, pair in enumerate(self.pairs):
            is_first = position < COMMON or pair.item in own or pair.item not in others
            (first if is_first else last).append(pair)
        return [*first, *last][:number]

    def rate(
        self, pair: Pair, rater: str, verdict: Verdict, *, note: str | None = None, seconds: float | None = None
    ) -> None:
        """Record a verdict at once. UserError if rows were erased since the answers were read."""
        with project_lock(self.store).hold(shared=True):
            self._require_not_redacted()
            rating = Rating(
                time=now(),
                rater=rater,
                candidate=self.candidate,
                rival=self.rival,
                item=pair.item,
                candidate_answer=pair.hash_of(self.candidate),
                rival_answer=pair.hash_of(self.rival),
                candidate_side=self.side_of(self.candidate, pair, rater),
                verdict=verdict,
                seconds=seconds,
                note=note,
            )
            append_rating(self.store, rating)

    def _require_not_redacted(self) -> None:
        artifact = ArtifactStore(self.store).open(self.comparison.kind, self.comparison.fingerprint)
        if artifact is None or artifact.redacted:
            raise UserError("Rows were erased since the answers were read. Run `ft run`, and start `ft rate` again.")

    def _oriented(self, rating: Rating) -> Rating | None:
        """Return a verdict as one on these two rows; None if it is about other answers."""
        pair = self.by_item.get(rating.item)
        if pair is None:
            return None
        present = pair.hash_of(self.candidate), pair.hash_of(self.rival)
        named = replace(rating, candidate=self.candidate, rival=self.rival)
        if present == (rating.candidate_answer, rating.rival_answer):
            return named
        if present == (rating.rival_answer, rating.candidate_answer):
            swapped: dict[str, Verdict] = {"candidate": "rival", "rival": "candidate"}
            return replace(
                named,
                candidate_answer=rating.rival_answer,
                rival_answer=rating.candidate_answer,
                candidate_side=3 - rating.candidate_side,
                verdict=swapped.get(rating.verdict, rating.verdict),
            )
        return None


def open_match(root: Path, candidate: str, rival: str) -> Match:
    """Return the pairs of two rows of the present comparison in the store `root`. UserError if there are none."""
    store = ArtifactStore(root)
    artifact, comparison = present_comparison(store)
    names = [row.name for row in comparison.rows]
    for name in (candidate, rival):
        if name not in names:
            raise UserError(f"The comparison has no row {name!r}. Choose two of these: {', '.join(names)}.")
    if candidate == rival:
        raise UserError(f"Both names are {candidate!r}. Name two rows of `ft compare`.")
    for name in screened_out(comparison).keys() & {candidate, rival}:
        why = f"{name} does not lead on the validation rows, so nobody sees its test answers"
        raise UserError(f"{why}. Name another row.")
    pairs = _read_pairs(store, artifact, comparison, (candidate, rival))
    differing = [pair for pair in pairs if pair.answers[candidate] != pair.answers[rival]]
    if not differing:
        raise UserError(
            f"{candidate} and {rival} give the same {len(pairs)} answers. There is nothing to rate: choose other rows."
        )
    seed = seed_of(root, (candidate, rival))
    return Match(root, artifact, candidate, rival, seed, in_order(differing, seed), len(pairs) - len(differing))


def present_comparison(store: ArtifactStore) -> tuple[Artifact, Comparison]:
    """Return the present comparison. UserError if there is none, or if a row was erased from it."""
    artifact = current_artifact(store, "comparison")
    if artifact is None:
        pointer = AssetPointers(store.root).read("comparison")
        raise UserError(
            "The comparison is damaged. Run `ft run`." if pointer else "There is no comparison yet. Run `ft run`."
        )
    if artifact.redacted:
        raise UserError("A row was erased from the comparison. Run `ft run` first.")
    return artifact, read_comparison(artifact)


def in_order(pairs: Sequence[Pair], seed: str) -> list[Pair]:
    """Return pairs in the order in which they are rated."""
    by_unit: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: _hash(seed, "item", pair.item)):
        by_unit[pair.unit].append(pair)
    places = {
        pair.item: (round_, _hash(seed, "group", unit))
        for unit, of_unit in by_unit.items()
        for round_, pair in enumerate(of_unit)
    }
    return sorted(pairs, key=lambda pair: places[pair.item])


def _hash(*parts: str) -> bytes:
    return sha256("\0".join(parts).encode()).digest()


def _read_pairs(store: ArtifactStore, artifact: Artifact, comparison: Comparison, names: tuple[str, str]) -> list[Pair]:
    """Return the answers of two rows to every test item."""
    columns = ["name", "item", "group", "cluster", "prompt", "reference", "answer"]
    path = artifact.path / "samples.parquet"
    known = [column for column in columns if column in pq.read_schema(path).names]  # older ones have no clusters
    table = pq.read_table(path, columns=known, filters=[("name", "in", list(names))])
    samples: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in names}
    for sample in table.to_pylist():
        samples[sample["name"]][sample["item"]] = sample
    turns = conversations_of(store, artifact, comparison)
    return [
        Pair(
            item,
            turns_before(sample, turns),
            sample["reference"],
            {name: samples[name][item]["answer"] for name in names},
            unit_of(sample),
        )
        for item, sample in samples[names[0]].items()
    ]
