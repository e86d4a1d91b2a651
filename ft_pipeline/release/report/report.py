"""A comparison as one self-contained HTML file: the recommendation, the scores, and all answers side by side."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.costs import duration, in_words
from ft_pipeline.evaluation.comparison.plots import change_picture, learning_curve_picture, score_picture
from ft_pipeline.evaluation.comparison.records import (
    Changes,
    Comparison,
    ComparisonRow,
    QuantizationError,
    Score,
    read_comparison,
)
from ft_pipeline.evaluation.comparison.sweep_results import curve_in_words, spread_in_words
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.release.candidates import candidates, row_of
from ft_pipeline.release.report.answers import MOST_ITEMS, Samples, change_of, gains, side_by_side
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

TEMPLATE = "report.html.jinja"
NAME = "report.html"
DECISIONS = {
    "prompt": "Do not fine-tune. Prompt the base model.",
    "retrieval": "Do not fine-tune. Give the base model the passages that it lacks (retrieval).",
    "prompt_tuning": "Fine-tune with a learned prompt (prompt tuning).",
    "distillation": "Distill the teacher: let it write more training data.",
    "lora": "Fine-tune with LoRA.",
    "qlora": "Fine-tune with QLoRA.",
    "full": "Fine-tune all weights.",
    "more_data": "Collect more data before you decide.",
}
KINDS = {
    "base": "the base model without a prompt",
    "adapter": "the adapter on its base model",
    "merged": "the adapter merged into the weights",
    "champion": "the released model",
    "teacher": "the teacher, which writes training data",
}
COSTS = {
    "prompt_tokens_per_call": ("prompt tokens per call", 0),
    "generated_tokens_per_call": ("generated tokens per call", 0),
    "seconds_per_call": ("seconds per call", 2),
    "cost_per_call": ("cost per call", 6),
}
"""By the row's field: the heading, and the number of decimals."""


def render_report(
    store: ArtifactStore,
    compared: Artifact,
    recommendation: Artifact,
    champion: Artifact | None,
    project: Mapping[str, Any],
) -> str:
    """Return the HTML. champion: the asset of that name. project: `name` and `task` of project.yaml."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    comparison, decided = read_comparison(compared), recommendation.document("recommendation.json")
    page = _Page(store, compared, comparison)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # every text in it may be a user's, or a model's
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=visible,
    )
    released = champion.summary if champion else {}
    return environment.get_template(TEMPLATE).render(
        title=project["name"],
        task=project["task"],
        items=comparison.test_items,
        conversations=comparison.test_rows,
        compared=compared.manifest["created"][:16].replace("T", " ") + " UTC",
        decision=DECISIONS.get(decided["decision"], decided["decision"]),
        reasons=decided["reasons"],
        champion=released.get("champion"),
        not_moved=[] if released.get("moved") else released.get("reasons", []),
        identity=_identity(comparison, compared, recommendation, champion),
        **page.scores(_released_row(store, compared, comparison, released.get("champion"))),
        **page.answers(),
        prompts=page.prompts(),
    )


def visible(value: Any) -> Any:
    """Return a text with invisible characters (control, change of direction) escaped; other values unchanged."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in value)


class _Page:
    """The parts of the page, from a comparison and its samples."""

    def __init__(self, store: ArtifactStore, compared: Artifact, comparison: Comparison) -> None:
        self.store = store
        self.compared = compared
        self.comparison = comparison
        self.metrics = comparison.shown_metrics()
        self.primary = comparison.metric()
        self.costs = [key for key in COSTS if any(getattr(row, key) is not None for row in comparison.rows)]

    def scores(self, released: str | None) -> dict[str, Any]:
        """Return the scores for the template. released: the name of the released row."""
        best = {name: self._best(name, metric) for name, metric in self.metrics.items()}
        return {
            "primary": _title(self.primary),
            "metrics": [
                {"label": metric.label, "direction": metric.direction, "meaning": metric.meaning, "unit": metric.unit}
                for metric in self.metrics.values()
            ],
            "costs": [*(COSTS[key][0] for key in self.costs), "trained parameters", "training"],
            "rows": [self._row(row, best, released) for row in self.comparison.rows],
            "left_out": [
                f"{row.name}, scored in another evaluation ({', '.join(row.differs_in) or 'unknown'} differs)"
                for row in self.comparison.left_out
            ],
            "break_even": [in_words(entry) for entry in self.comparison.break_even],
            **self._sweeps(),
            "noise": _noise(self.comparison.quantization_noise),
            "picture": _data_uri(score_picture(self.comparison)),
            "pairs": [
                {
                    "better": pair.better,
                    "worse": pair.worse,
                    "difference": f"{pair.difference:.3f}",
                    "interval": f"{pair.low:.3f} to {pair.high:.3f}",
                    "certain": pair.clear,
                }
                for pair in self.comparison.pairs
                if pair.metric == self.comparison.primary_metric
            ],
        }

    def _sweeps(self) -> dict[str, Any]:
        """Return the results of sweeps: other seeds, and shares of the rows."""
        name, curve = self.comparison.primary_metric, learning_curve_picture(self.comparison)
        return {
            "seeds": [spread_in_words(spread, name, self.primary) for spread in self.comparison.seeds],
            "learning_curves": [curve_in_words(entry, self.primary) for entry in self.comparison.learning_curves],
            "learning_curve": _data_uri(curve) if curve else None,
        }

    def answers(self) -> dict[str, Any]:
        """Return the answers for the template, and what tuning changed in them."""
        samples, changes = self._samples(), self.comparison.changes
        gained = gains(samples, changes, self.primary) if changes else None
        items = side_by_side(samples, self._turns(), (self.comparison.primary_metric, self.primary), gained)
        return {
            "samples": items,
            "shown": len(items),
            "primary_of_item": _title(self.primary),
            "changes": self._changes(changes, gained) if changes and gained is not None else None,
        }

    def prompts(self) -> list[dict[str, str]]:
        """Return the full system prompts of the rows that have one."""
        prompts = [(row, self._about(row).get("system_prompt")) for row in self.comparison.rows]
        return [
            {"name": row.name, "what": self._what(row), "system_prompt": prompt} for row, prompt in prompts if prompt
        ]

    def _best(self, name: str, metric: Metric) -> float:
        """Return the best value of a metric. The row order follows the primary metric only."""
        return min((row.scores[name].value for row in self.comparison.rows if name in row.scores), key=metric.rank_key)

    def _row(self, row: ComparisonRow, best: Mapping[str, float], released: str | None) -> dict[str, Any]:
        costs = [(getattr(row, key), COSTS[key][1]) for key in self.costs]
        return {
            "name": row.name,
            "what": self._what(row),
            "released": row.name == released,
            "cells": [_cell(row.scores.get(name), best[name]) for name in self.metrics],
            "costs": [
                *("" if cost is None else f"{cost:,.{digits}f}" for cost, digits in costs),
                f"{row.trainable_params:,}",
                duration(row.training.seconds) if row.training else "",
            ],
        }

    def _what(self, row: ComparisonRow) -> str:
        if row.kind != "prompt":
            return KINDS[row.kind] + (f" ({row.technique})" if row.technique else "")
        about = self._about(row)
        count, how = about.get("few_shot", 0), about.get("examples", "fixed")
        parts = ["a system prompt"] if about.get("system_prompt") else []
        parts += [f"{count} {how} examples"] if count else []
        parts += [f"{about['passages']} passages"] if about.get("passages") else []
        return f"the base model with {' and '.join(parts) or 'no prompt'}"

    def _about(self, row: ComparisonRow) -> Mapping[str, Any]:
        """Return the facts about the row's prompt in its scores."""
        scored = self.store.require(*self.compared.inputs[row.source])
        own = next(entry for entry in scored.document("scores.json")["rows"] if entry["name"] == row.source_row)
        return own["model"]

    def _samples(self) -> Samples:
        records = pq.read_table(self.compared.path / "samples.parquet").to_pylist()
        by_row: dict[str, list[dict[str, Any]]] = {row.name: [] for row in self.comparison.rows}
        for record in records:
            by_row[record["name"]].append(record)
        return {name: sorted(samples, key=lambda sample: sample["item"]) for name, samples in by_row.items()}

    def _turns(self) -> dict[str, list[dict[str, str]]]:
        """Return the messages of the test conversations, by id."""
        scored = self.store.require(*self.compared.inputs[self.comparison.rows[0].source])
        rows = self.store.require(*scored.inputs["conversations"]).path / "rows.parquet"
        table = pq.read_table(rows, columns=["id", "messages"], filters=[("split", "=", "test")])
        return {row["id"]: row["messages"] for row in table.to_pylist()}

    def _changes(self, changes: Changes, gained: Sequence[float]) -> dict[str, Any]:
        counts = [change_of(gain, self.primary.worth_noticing) for gain in gained]
        return {
            "before": changes.before,
            "after": changes.after,
            **{change: counts.count(change) for change in ("improved", "same", "regressed")},
            "picture": _data_uri(change_picture(gained, self.primary)),
        }


def _released_row(
    store: ArtifactStore, compared: Artifact, comparison: Comparison, champion: Mapping[str, Any] | None
) -> str | None:
    known, _ = candidates(compared, store)
    return row_of(comparison, known, champion["fingerprint"]) if champion else None


def _title(metric: Metric) -> str:
    return f"{metric.label} ({metric.direction})"


def _cell(score: Score | None, best: float) -> dict[str, Any]:
    if score is None:
        return {"value": "", "interval": "", "best": False}
    digits = 1 if abs(score.value) >= 10 else 3
    interval = f"{score.low:.{digits}f} to {score.high:.{digits}f}"
    return {"value": f"{score.value:.{digits}f}", "interval": interval, "best": score.value == best}


def _noise(noise: Mapping[str, Sequence[QuantizationError]]) -> list[dict[str, str]]:
    """Return a line per experiment and compared models."""
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
        for experiment, errors in noise.items()
        for error in errors
    ]


def _identity(comparison: Comparison, *artifacts: Artifact | None) -> list[tuple[str, str]]:
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(comparison.evaluation.get("versions", {}).items())
    )
    return [
        *((artifact.kind, artifact.fingerprint) for artifact in artifacts if artifact),
        ("evaluation", comparison.fingerprint or ""),
        *([("measured with", versions)] if versions else []),
        ("maximum items shown", str(MOST_ITEMS)),
    ]


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
