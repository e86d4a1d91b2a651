"""The tables of scores, costs, leads and sweeps of the report, and the prompts that were searched."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.findings.costs import describe_break_even
from ft_pipeline.decide.markdown import score_digits
from ft_pipeline.decide.notes import base_models, footnotes, shown_metrics, unusable
from ft_pipeline.decide.plots import learning_curve_picture, score_picture
from ft_pipeline.evaluation.comparison.result_records import QuantizationError
from ft_pipeline.evaluation.comparison.score import Score, describe_interval
from ft_pipeline.evaluation.comparison.sweep_results import describe_learning_curve, describe_seed_spread
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.evaluation.prompt_search.tries import TRIES_FILE, read_tries
from ft_pipeline.evaluation.prompt_search.tries import describe as describe_search
from ft_pipeline.pace import format_duration
from ft_pipeline.small_plots import tries_plot
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

COST_COLUMNS = {
    "prompt_tokens_per_call": ("prompt tokens per call", 0),
    "generated_tokens_per_call": ("generated tokens per call", 0),
    "seconds_per_call": ("seconds per call", 2),
    "cost_per_call": ("cost per call", 6),
}
"""By the row's field: the heading, and the number of decimals."""


class Scores:
    """Makes the values for the template scores.html.jinja, and training.html.jinja."""

    def __init__(self, comparison: Comparison, describe: Callable[[Row], str]) -> None:
        """describe: what a row is, as part of a sentence."""
        self.comparison = comparison
        self.metrics = shown_metrics(comparison)
        self.primary = comparison.metric()
        self.costs = [key for key in COST_COLUMNS if any(getattr(row, key) is not None for row in comparison.rows)]
        self.describe = describe

    def values(self, released: str | None) -> dict[str, Any]:
        """Return the scores for the template. released: the name of the released row."""
        best = {name: self._best_value(name, metric) for name, metric in self.metrics.items()}
        return {
            "primary": self.primary.title,
            "decided_by": self.comparison.decided_by,
            "footnotes": footnotes(self.comparison),
            "several_bases": len(base_models(self.comparison)) > 1,
            "metrics": [
                {"label": metric.label, "direction": metric.direction, "meaning": metric.meaning, "unit": metric.unit}
                for metric in self.metrics.values()
            ],
            "costs": [*(COST_COLUMNS[key][0] for key in self.costs), "trained parameters", "training"],
            "rows": [self._score_row(row, best, released) for row in self.comparison.rows],
            "left_out": [
                f"{row.name}, scored in another evaluation ({', '.join(row.differs_in) or 'unknown'} differs)"
                for row in self.comparison.left_out
            ],
            "unusable": unusable(self.comparison),
            "not_compared": [
                *(entry.describe() for entry in self.comparison.contaminated),
                *self.comparison.not_asked,
            ],
            "break_even": [describe_break_even(entry) for entry in self.comparison.break_even],
            **self._sweeps(),
            "quantization": _quantization_rows(self.comparison.quantization_noise),
            "own_targets": self.comparison.own_targets,
            "picture_of_scores": data_uri(score_picture(self.comparison)),
            "pairs": self._paired_differences(),
        }

    def _paired_differences(self) -> list[dict[str, Any]]:
        """Return the paired differences in the primary metric."""
        return [
            {
                "better": lead.row,
                "worse": lead.rival,
                "difference": f"{lead.value:.3f}",
                "interval": describe_interval(lead.low, lead.high),
                "is_clear": lead.verdict == "shown",
            }
            for lead in self.comparison.of_kind("lead")
            if lead.measure == self.comparison.primary and lead.value is not None
        ]

    def _sweeps(self) -> dict[str, Any]:
        """Return the results of sweeps: other seeds, and shares of the rows."""
        comparison, picture = self.comparison, learning_curve_picture(self.comparison)
        return {
            "seeds": [describe_seed_spread(spread, comparison.primary, self.primary) for spread in comparison.seeds],
            "learning_curves": [describe_learning_curve(curve, self.primary) for curve in comparison.learning_curves],
            "learning_curve": data_uri(picture) if picture else None,
        }

    def _best_value(self, name: str, metric: Metric) -> float:
        """Return the best value of a metric. The first row is only the best by the primary metric."""
        return min((row.scores[name].value for row in self.comparison.rows if name in row.scores), key=metric.rank_key)

    def _score_row(self, row: Row, best: Mapping[str, float], released: str | None) -> dict[str, Any]:
        """Return a line of the table of scores."""
        costs = [(getattr(row, key), COST_COLUMNS[key][1]) for key in self.costs]
        return {
            "name": row.name,
            "base_model": row.base_model or "",
            "description": self.describe(row),
            "released": row.name == released,
            "cells": [_score_cell(row.scores.get(name), best[name]) for name in self.metrics],
            "costs": [
                *("" if cost is None else f"{cost:,.{digits}f}" for cost, digits in costs),
                f"{row.trainable_params:,}",
                format_duration(row.training.seconds) if row.training else "",
            ],
        }


def _score_cell(score: Score | None, best: float) -> dict[str, Any]:
    if score is None:
        return {"value": "", "interval": "", "best": False}
    digits = score_digits(score.value)
    interval = describe_interval(score.low, score.high, digits)
    return {"value": f"{score.value:.{digits}f}", "interval": interval, "best": score.value == best}


def _quantization_rows(errors_by_experiment: Mapping[str, Sequence[QuantizationError]]) -> list[dict[str, str]]:
    """Return a line per experiment and pair of models."""
    return [
        {
            "experiment": experiment,
            "first": error.first,
            "second": error.second,
            "kl": f"{error.kl:.4f}",
            "first_loss": f"{error.first_loss:.4f}",
            "second_loss": f"{error.second_loss:.4f}",
            "difference": f"{error.difference:+.4f}",
        }
        for experiment, errors in errors_by_experiment.items()
        for error in errors
    ]


def data_uri(png: bytes) -> str:
    """Return a picture as the address of an <img>."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def searches(store: ArtifactStore, comparison: Artifact) -> list[dict[str, str]]:
    """Return each search of a prompt that scores of a comparison rest on.

    `of`: the scores. `sentence`. `picture`: a data URI.
    """
    found: dict[str, dict[str, str]] = {}
    for name, reference in comparison.inputs.items():
        search = store.require(*reference).inputs.get("searched_prompt")
        if search is not None and search[1] not in found:
            found[search[1]] = _searched(name, store.require(*search))
    return [values for values in found.values() if values]


def _searched(name: str, search: Artifact) -> dict[str, str]:
    summary = search.summary
    if not summary["tries"]:
        return {}
    plot = tries_plot([each.measured.score for each in read_tries(search.path / TRIES_FILE)], summary["metric"])
    return {"of": name, "sentence": describe_search(summary), "picture": plot.partition("](<")[2].removesuffix(">)")}
