"""The screen: leads on the validation rows, so that nobody sees the test scores of tuned models that are no better.

Only likelihoods are compared there. Everyone may try things on the validation rows; they decide nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ft_pipeline.decide.bench import Bench
from ft_pipeline.decide.claim import Claim, ScreenFacts, Verdict
from ft_pipeline.decide.likelihood_evidence import LIKELIHOODS, why_no_evidence
from ft_pipeline.evaluation.comparison.clusters import Clusters, with_clusters
from ft_pipeline.evaluation.comparison.leads import Conversations, Estimate, interval, lead_values, unit_of
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel

MIN_SCREENED = 30
"""Validation conversations from which on candidates are screened."""


def claims(bench: Bench) -> Iterator[Claim]:
    """Yield the lead of each row that may be released over the champion, or else over its bar."""
    records = {name: _records(model, bench.clusters) for name, model in bench.row_models.items()}
    for row in bench.comparison.rows:
        bar = bench.comparison.bar(row)
        rival = bench.champion or (bench.comparison.best_prompt(row) if bar and bar.rights.without_model else bar)
        if not row.rights.is_candidate or rival is None or rival.name == row.name:
            continue
        if bench.config.primary_metric not in LIKELIHOODS and why_no_evidence(row, rival):
            continue
        ours, theirs = records[row.name], records[rival.name]
        if rival.kind == "champion" and ours == theirs:
            continue  # it is the champion itself, which is compared as such, too
        items = sorted(ours.keys() & theirs.keys())
        units = [unit_of(ours[item]) for item in items]
        if len(set(units)) < 2:
            continue
        estimates = [_estimate(units, [side[item] for item in items]) for side in (ours, theirs)]
        values = lead_values(*estimates, lower_is_better=True)
        lead, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
        count = conversations_of([ours[item] for item in items])
        verdict: Verdict = "void" if count < MIN_SCREENED else "shown" if 0 < lead >= error else "refuted"
        known = {"kind": "screen", "row": row.name, "rival": rival.name, "scope": "validation", "value": lead}
        yield Claim(**known, count=count, verdict=verdict, facts=ScreenFacts(error=error))


def score_on_validation(records: Iterable[Mapping[str, Any]]) -> Score | None:
    """Return the nats per byte of a model on the validation rows, with their interval; None if not measured.

    records: its records in validation.parquet (clusters.with_clusters).
    """
    measured = _measured(records)
    return interval(_estimate([unit_of(record) for record in measured], measured)) if measured else None


def conversations_of(records: Iterable[Mapping[str, Any]]) -> int:
    """Return the number of validation conversations that were measured."""
    return len({record["group"] for record in _measured(records)})


def _measured(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in records if record["content_nats"] is not None]


def _records(model: ScoredModel, clusters: Clusters) -> dict[str, Mapping[str, Any]]:
    """Return the records of validation.parquet of a model, by item."""
    records = with_clusters(model.records("validation.parquet"), clusters)
    return {record["item"]: record for record in _measured(records)}


def _estimate(units: Sequence[str], records: Sequence[Mapping[str, Any]]) -> Estimate:
    nats, sizes = (
        np.array([[record[name]] for record in records], dtype=float) for name in ("content_nats", "content_bytes")
    )
    return Conversations(units).ratios(nats, sizes)[0]
