"""Compare the scores of models on the items that all of them answered: paired, clustered, corrected for the pairs.

Of m models, m (m - 1) / 2 pairs are looked at, so that the interval of each lead has the level 1 - 0.05 / pairs
(Bonferroni): in at most 5 % of the comparisons of equal models, one is called better than another. No model is chosen
first by its score: one is the best only if it is shown to be better than each of the others.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import ndtri

from ft_pipeline.decide.claim import verdict_of
from ft_pipeline.decide.comparison import MIN_CLUSTERS
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.leads import Conversations, Estimate, bounds, interval, values_over
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.foreign_logs.scores import ModelScores, is_lower_better
from ft_pipeline.tables.clusters import cluster

ERROR = 0.05
"""The rate at which some pair of equal models is called different, at most, by all looks together."""
POWER = 0.8
NAMED = 3
"""Number of items that an error names."""


def compare(logs: Sequence[ModelScores], metric: str | None = None, error: float = ERROR) -> dict[str, Any]:
    """Return the document of `ft compare --from --json`. UserError if the logs cannot be compared.

    metric: one that all logs have; None: the only one. error: the rate at which some pair of equal models may be called
    different.
    """
    _require_names(logs)
    name = _metric(logs, metric)
    lower = is_lower_better(name, logs)
    items = sorted(set.intersection(*(set(log.values.get(name, ())) for log in logs)))
    if len(items) < 2:
        raise UserError(f"The models have {len(items)} items with {name} in common. Log them on the same items.")
    _require_same_questions(logs, items)
    values = np.array([[float(np.mean(log.values[name][item])) for log in logs] for item in items])
    units, made_of = _units(logs, items)
    is_rate, highest = bool(np.isin(values, (0.0, 1.0)).all()), 1.0 if _is_in_unit_range(values) else None
    estimates = Conversations(units).means(values, is_rate=is_rate, highest=highest)
    rows: list[dict[str, Any]] = [
        {"model": log.model, "source": log.source, **_ends(interval(estimate)), **_repeats(log, name, items)}
        for log, estimate in zip(logs, estimates, strict=True)
    ]
    leads = _leads(rows, estimates, Metric(name, lower, "", ""), highest, len(set(units)), error)
    rows.sort(key=lambda row: row["value"] if lower else -row["value"])
    return {
        "metric": name,
        "lower_is_better": lower,
        "items": len(items),
        "units": len(set(units)),
        "units_are": made_of,
        "left_out": _left_out(logs, name, items),
        "differences": _differences(logs),
        "rows": rows,
        "leads": leads,
        **_verdict(rows, leads, len(set(units))),
    }


def _require_names(logs: Sequence[ModelScores]) -> None:
    names = [log.model for log in logs]
    if len(names) < 2:
        raise UserError(f"Only {names[0] if names else 'nothing'} was found. Name the logs of two models or more.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"Two logs are of {twice}. Give each a name of its own: --from NAME=PATH.")


def _metric(logs: Sequence[ModelScores], wanted: str | None) -> str:
    """Return the metric that decides. Nothing chooses it by the scores: a person names it if there are several."""
    common = sorted(set.intersection(*(set(log.values) for log in logs)))
    if wanted is not None and wanted not in common:
        raise UserError(f"Not every log has the metric {wanted}. Choose one of {', '.join(common) or 'none'}.")
    if wanted is None and len(common) != 1:
        each = "; ".join(f"{log.model}: {', '.join(sorted(log.values))}" for log in logs)
        said = f"The logs have {', '.join(common)}" if common else f"The logs have no metric in common ({each})"
        raise UserError(f"{said}. Choose one with --metric." if common else f"{said}. Score them with the same one.")
    return wanted or common[0]


def _require_same_questions(logs: Sequence[ModelScores], items: Sequence[str]) -> None:
    for first, second in combinations(logs, 2):
        differ = [
            item
            for item in items
            if item in first.questions and item in second.questions and first.questions[item] != second.questions[item]
        ]
        if differ:
            raise UserError(
                f"{len(differ)} items of {first.model} and {second.model} ask different things, such as "
                f"{', '.join(differ[:NAMED])}: the logs are of different data. Evaluate both on the same."
            )


def _units(logs: Sequence[ModelScores], items: Sequence[str]) -> tuple[list[str], str]:
    """Return the unit of statistics of each item, and what it is: its group, a cluster of like questions, or itself."""
    groups: Mapping[str, str] = {item: group for log in logs for item, group in log.groups.items()}
    questions: Mapping[str, str] = {item: text for log in logs for item, text in log.questions.items()}
    named = [groups.get(item, f"item {item}") for item in items]
    if not all(item in questions for item in items):
        return named, "groups of items" if groups else "items"
    texts = pa.array([questions[item] for item in items], pa.large_string())
    found = cluster(texts, np.array(named, dtype=object))
    return [str(place) for place in found.tolist()], "clusters of like questions"


def _is_in_unit_range(values: np.ndarray) -> bool:
    return bool(values.min() >= 0 and values.max() <= 1)


def _ends(score: Any) -> dict[str, float | None]:
    return {"value": score.value, "low": score.low, "high": score.high}


def _repeats(log: ModelScores, metric: str, items: Sequence[str]) -> dict[str, int]:
    return {"answers": sum(len(log.values[metric][item]) for item in items)}


def _leads(
    rows: Sequence[Mapping[str, Any]],
    estimates: Sequence[Estimate],
    definition: Metric,
    highest: float | None,
    units: int,
    error: float,
) -> list[dict[str, Any]]:
    """Return the lead of each pair, seen from the one that is ahead."""
    pairs = math.comb(len(rows), 2)
    level = 1 - error / 2 / pairs
    name = definition.label
    by_model = {row["model"]: {name: estimate} for row, estimate in zip(rows, estimates, strict=True)}
    found = []
    for first, second in combinations(by_model, 2):
        is_behind = definition.is_better(by_model[second][name].value, by_model[first][name].value)
        model, rival = (second, first) if is_behind else (first, second)
        values = values_over(rival, model, name, definition, by_model)
        low, high = bounds(values, level, highest=highest)
        lead = definition.gain(by_model[rival][name].value, by_model[model][name].value)
        needed = _needed(lead, float(values.std(ddof=1)), level) if low is not None else None
        verdict = verdict_of(low, high) if units >= MIN_CLUSTERS else "open"
        said = {"model": model, "rival": rival, "value": lead, "low": low, "high": high}
        found.append({**said, "verdict": verdict, "needed_units": needed})
    return found


def _needed(lead: float, deviation: float, level: float) -> int | None:
    """Return how many units would show a lead of this size in POWER of the cases; None for no lead."""
    if lead <= 0:
        return None
    return math.ceil(((float(ndtri(level)) + float(ndtri(POWER))) * deviation / lead) ** 2)


def _left_out(logs: Sequence[ModelScores], metric: str, items: Sequence[str]) -> dict[str, int]:
    """Return model → items that another model has, and of which it has no score."""
    every = {item for log in logs for item in (*log.values.get(metric, ()), *log.failed)}
    missing = {log.model: len(every - set(log.values.get(metric, ()))) for log in logs}
    return {model: count for model, count in missing.items() if count}


def _differences(logs: Sequence[ModelScores]) -> list[str]:
    """Return what the logs were made with differently, as sentences."""
    names = sorted({name for log in logs for name in log.settings})
    found = []
    for name in names:
        values = {log.model: log.settings[name] for log in logs if name in log.settings}
        if len(set(values.values())) > 1:
            each = ", ".join(f"{model} {value}" for model, value in values.items())
            found.append(f"The {name} differs: {each}.")
    return found


def _verdict(rows: Sequence[Mapping[str, Any]], leads: Sequence[Mapping[str, Any]], units: int) -> dict[str, Any]:
    """Return the models that none is shown to lead, best first, and what follows. rows: best first."""
    if units < MIN_CLUSTERS:
        return {"best": None, "candidates": [row["model"] for row in rows]}
    shown = [lead for lead in leads if lead["verdict"] == "shown"]
    beaten = {lead["rival"] for lead in shown}
    left = [row["model"] for row in rows if row["model"] not in beaten]
    is_best = sum(lead["model"] == left[0] for lead in shown) == len(rows) - 1
    return {"best": left[0] if is_best else None, "candidates": left}
