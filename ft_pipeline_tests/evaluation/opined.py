"""Scores of two models and a rival, with made-up verdicts of people and of a judge, for tests of what follows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.evaluation.opinions.verdict_tables import hash_of_answer
from ft_pipeline_tests.evaluation.scored import CORRECT, scored

ITEMS = 134
CONFIG = {"primary_metric": "auto"}
ROW, RIVAL = "a/merged", "base"
_ROWS = {"a/merged": "merged", "base": "plain", "b/merged": "merged2"}
Verdicts = Sequence[str]


def answer(row: str, number: int) -> str:
    """The answer of a row to a test item, as `score_all` makes it."""
    return f"{_ROWS.get(row, row)} says {number}"


def score_all(folder: Path, *, lead: float = 0.2, spread: float = 0.3) -> dict[str, Path]:
    """Score the base model and two tuned ones, `a` and `b`, on ITEMS conversations. lead: of `a`, in nats per byte."""
    generator = np.random.default_rng(9)
    base = 1.5 + 0.2 * generator.standard_normal(ITEMS)

    def row(kind: str, better: float, **values: Any) -> dict[str, Any]:
        nats = base - better - spread * generator.standard_normal(ITEMS) * (better != 0)
        return {"kind": kind, "losses": [2.0] * ITEMS, "nats": nats.tolist(), "correct": CORRECT, **values}

    tuned = {"technique": "lora"}
    of_b = [answer("b/merged", number) for number in range(ITEMS)]
    made = {
        "a/prompt_baseline": scored(folder / "base", {"plain": row("base", 0.0)}),
        "a/scores": scored(folder / "a", {"merged": row("merged", lead, **tuned)}),
        "b/scores": scored(folder / "b", {"merged": row("merged", lead / 2, **tuned)}),
    }
    path = made["b/scores"] / "samples.parquet"
    samples = [{**sample, "answer": text} for sample, text in zip(pq.read_table(path).to_pylist(), of_b, strict=True)]
    pq.write_table(pa.Table.from_pylist(samples), path)
    return made


def rating(number: int, verdict: str, rater: str = "ann", row: str = ROW, rival: str = RIVAL) -> dict[str, Any]:
    """A row of ratings.parquet."""
    return {
        "time": f"2026-01-01T00:{number // 60:02}:{number % 60:02}+00:00",
        "rater": rater,
        "candidate": row,
        "rival": rival,
        "item": f"{number:03}:1",
        "group": f"{number:03}",
        "candidate_answer": hash_of_answer(answer(row, number)),
        "rival_answer": hash_of_answer(answer(rival, number)),
        "candidate_side": 1 + number % 2,
        "verdict": verdict,
        "seconds": 12.5,
        "note": None,
    }


def judgement(
    number: int, first: float, second: float | None = None, row: str = ROW, rival: str = RIVAL, **values: Any
) -> dict[str, Any]:
    """A row of judgements.parquet. first, second: the candidate's score in each order."""
    second = first if second is None else second
    ours, theirs = answer(row, number), answer(rival, number)
    return {
        "candidate": row,
        "rival": rival,
        "item": f"{number:03}:1",
        "group": f"{number:03}",
        "candidate_answer": hash_of_answer(ours),
        "rival_answer": hash_of_answer(theirs),
        "score": (first + second) / 2,
        "first": first,
        "second": second,
        "unparsable": 0,
        "candidate_bytes": len(ours),
        "rival_bytes": len(theirs),
        **values,
    }


def rate(verdicts: Verdicts, **values: Any) -> list[dict[str, Any]]:
    """Rate the first items."""
    return [rating(number, verdict, **values) for number, verdict in enumerate(verdicts)]


def mixed(won: int, lost: int, ties: int = 0, seed: int = 3) -> list[str]:
    """So many verdicts, in a random order."""
    verdicts = ["candidate"] * won + ["rival"] * lost + ["both_good"] * ties
    return [verdicts[place] for place in np.random.default_rng(seed).permutation(len(verdicts))]


def judge_like(verdicts: Verdicts, *, agrees: float = 0.85, seed: int = 4, **values: Any) -> list[dict[str, Any]]:
    """Judge all items: as people did with this probability, where they rated, and at random elsewhere."""
    generator = np.random.default_rng(seed)
    scores = {"candidate": 1.0, "rival": 0.0, "both_good": 0.5, "neither": 0.5}
    made = []
    for number in range(ITEMS):
        known = number < len(verdicts) and generator.random() < agrees
        made.append(
            judgement(number, scores[verdicts[number]] if known else float(generator.choice([1.0, 0.0])), **values)
        )
    return made


def opinion_inputs(
    folder: Path,
    ratings: Sequence[Mapping[str, Any]] = (),
    judgements: Sequence[Mapping[str, Any]] = (),
    excluded: Sequence[str] = (),
) -> dict[str, Path]:
    """Write the artifacts of opinions. The one without rows is left out."""
    inputs = {}
    for name, rows in (("ratings", ratings), ("judgements", judgements)):
        if rows:
            inputs[name] = folder / name
            inputs[name].mkdir()
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), inputs[name] / f"{name}.parquet")
    if "judgements" in inputs:
        (inputs["judgements"] / "judge.json").write_text(json.dumps({"excluded": list(excluded)}))
    return inputs


def compared(folder: Path, *args: Any, config: Mapping[str, Any] = CONFIG, **kwargs: Any) -> Comparison:
    """Score, and compare with opinions. Arguments as in opinion_inputs."""
    return compare(score_all(folder) | opinion_inputs(folder, *args, **kwargs), config)


def opinion(comparison: Comparison, by: str, row: str = ROW, rival: str = RIVAL) -> Claim | None:
    known = (row, rival, by)
    return next((one for one in comparison.of_kind("opinion") if (one.row, one.rival, one.measure) == known), None)
