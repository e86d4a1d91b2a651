"""Read the verdicts of people (ratings.parquet) and of a judge (judgements.parquet).

A verdict belongs to a test item and the hashes of two answers, whatever the models are called: so it outlives a
retraining whose answers are unchanged.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

RATINGS_FILE, JUDGEMENTS_FILE, JUDGE_FILE = "ratings.parquet", "judgements.parquet", "judge.json"
_VALUES = {"candidate": 1.0, "rival": -1.0, "both_good": 0.0, "neither": 0.0}
"""By verdict: 1 if the candidate's answer is better, 0 for a tie."""


class Answers(NamedTuple):
    """Two answers to a test item, by their hashes."""

    item: str
    candidate: str
    rival: str

    @property
    def swapped(self) -> "Answers":
        return Answers(self.item, self.rival, self.candidate)


@dataclass(frozen=True)
class Rating:
    """The verdict of a rater."""

    value: float
    """1 if the candidate's answer is better, -1 if the rival's is, 0 for a tie."""
    can_go_out: bool
    """Whether at least one of the answers can."""


@dataclass(frozen=True)
class Judgement:
    """The verdict of a judge, over both orders."""

    score: float
    """0 to 1 for the candidate."""
    is_same: bool
    """Whether both orders gave the same verdict."""
    unparsable: int
    """Replies that could not be read: 0 to 2."""
    log_length: float
    """Logarithm of (bytes of the candidate's answer / bytes of the rival's)."""


Ratings = Mapping[Answers, Mapping[str, Rating]]
"""By answers, then by rater. Each two answers are there once, with the sides that they had when first rated."""
Judgements = Mapping[Answers, Judgement]


def hash_of_answer(text: str) -> str:
    """Return the hash by which the tables name an answer."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_ratings(folder: Path | None) -> Ratings:
    """Return the ratings of an artifact; none for None. The last verdict of a rater on two answers counts."""
    ratings: dict[Answers, dict[str, Rating]] = defaultdict(dict)
    if folder is not None:
        for row in pq.read_table(folder / RATINGS_FILE).to_pylist():
            answers = Answers(row["item"], row["candidate_answer"], row["rival_answer"])
            is_swapped = answers.swapped in ratings
            value = _VALUES[row["verdict"]]
            rating = Rating(-value if is_swapped else value, row["verdict"] != "neither")
            ratings[answers.swapped if is_swapped else answers][row["rater"]] = rating
    return dict(ratings)


def rated_under_names(folder: Path | None) -> Mapping[frozenset[str], set[str]]:
    """Return the items that were rated, by the names that the two rows had. Their answers may have changed since."""
    items: dict[frozenset[str], set[str]] = defaultdict(set)
    if folder is not None:
        for row in pq.read_table(folder / RATINGS_FILE, columns=["candidate", "rival", "item"]).to_pylist():
            items[frozenset((row["candidate"], row["rival"]))].add(row["item"])
    return items


def read_judgements(folder: Path | None) -> Judgements:
    """Return the judgements of an artifact; none for None. Equal answers are left out: they were not compared."""
    if folder is None:
        return {}
    return {
        Answers(row["item"], row["candidate_answer"], row["rival_answer"]): Judgement(
            row["score"],
            row["first"] == row["second"],
            row["unparsable"],
            math.log(max(1, row["candidate_bytes"]) / max(1, row["rival_bytes"])),
        )
        for row in pq.read_table(folder / JUDGEMENTS_FILE).to_pylist()
        if row["candidate_answer"] != row["rival_answer"]
    }


def read_exclusion(folder: Path | None) -> str | None:
    """Return why the judge may not decide, whatever its verdicts; None if it may."""
    if folder is None or not (folder / JUDGE_FILE).is_file():
        return None
    sentences = json.loads((folder / JUDGE_FILE).read_text(encoding="utf-8")).get("excluded", [])
    return str(sentences[0]).partition(". ")[0].rstrip(".") if sentences else None


def ratings_of(answers: Answers, ratings: Ratings) -> list[Rating]:
    """Return the verdicts of all raters on two answers, with these sides."""
    if answers in ratings:
        return list(ratings[answers].values())
    swapped = ratings.get(answers.swapped, {})
    return [Rating(-rating.value, rating.can_go_out) for rating in swapped.values()]


def judgement_of(answers: Answers, judgements: Judgements) -> Judgement | None:
    """Return the judge's verdict on two answers, with these sides; None if it compared others."""
    if answers in judgements:
        return judgements[answers]
    swapped = judgements.get(answers.swapped)
    if swapped is None:
        return None
    return Judgement(1 - swapped.score, swapped.is_same, swapped.unparsable, -swapped.log_length)


def majority(values: list[float]) -> float:
    """Return the verdict that most raters gave; a tie if no verdict has the most."""
    (first, count), *others = Counter(values).most_common()
    return 0.0 if others and others[0][1] == count else first
