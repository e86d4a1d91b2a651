"""The scored models of a comparison: rows of scores.json files, with unique names and their samples."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.records import LeftOut
from ft_pipeline.evaluation.model_kinds import TUNED, ModelKind
from ft_pipeline.evaluation.scoring.fingerprint import Parts, differences


@dataclass(frozen=True)
class ScoredModel:
    """One row of a comparison before anything is computed."""

    name: str
    """Unique in its comparison."""
    kind: ModelKind
    experiment: str | None
    source: str
    """The input that it was read from, `<experiment>/<asset>`."""
    row: dict[str, Any]
    """Its row in scores.json."""
    parts: Parts
    """The parts of its evaluation fingerprint."""
    folder: Path
    own_metrics: dict[str, dict[str, Any]]
    """The metrics that only its task has, with the fields of Metric."""

    def records(self, file: str) -> list[dict[str, Any]]:
        """Return its records in samples.parquet, general.parquet or tasks.parquet, in the order of the items."""
        if not (self.folder / file).is_file():
            return []  # older scores do not have this file
        rows = pq.read_table(self.folder / file, filters=[("name", "=", self.row["name"])]).to_pylist()
        return sorted(rows, key=lambda row: row["item"])


def read_scored_models(inputs: Mapping[str, Path], champion: Mapping[str, Any] | None) -> list[ScoredModel]:
    """Return the rows of every input, in a fixed order.

    inputs: folders by `<experiment>/prompt_baseline`, `<experiment>/teacher_scores`, `<experiment>/scores` and
    `champion/<asset>`. A folder that several experiments share (one base model, scored once) is read once.
    champion: its record, with `name` (the promoted row) and `experiment`.
    """
    contenders: list[ScoredModel] = []
    named_rows: list[tuple[str, ModelKind, str | None, dict[str, Any]]]
    shared: dict[str, list[Path]] = {"prompt_baseline": [], "teacher_scores": []}
    for key in sorted(inputs):
        owner, asset = key.split("/", 1)
        document = json.loads((inputs[key] / "scores.json").read_text(encoding="utf-8"))
        rows, parts, own = document["rows"], document["evaluation"], document.get("metrics", {})
        if owner == "champion":
            wanted = champion["name"].split("/")[-1] if champion else None
            experiment = champion["experiment"] if champion else None
            named_rows = [("champion", "champion", experiment, row) for row in rows if wanted in _names(row)]
        elif asset in shared:
            seen = shared[asset]
            if inputs[key].resolve() in seen:
                continue
            seen.append(inputs[key].resolve())
            suffix = f"@{owner}" if len(seen) > 1 else ""
            named_rows = [(_names(row)[0] + suffix, row["kind"], None, row) for row in rows]
        else:
            named_rows = [(f"{owner}/{row['name']}", row["kind"], owner, row) for row in rows]
        contenders += [
            ScoredModel(name, kind, who, key, row, parts, inputs[key], own) for name, kind, who, row in named_rows
        ]
    return contenders


def _names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row's name in a comparison, then in its scores.json. The plain base model is named by its kind."""
    return ("base", row["name"]) if row["kind"] == "base" else (row["name"],)


def comparable(contenders: Sequence[ScoredModel], wanted: str | None) -> tuple[list[ScoredModel], list[LeftOut]]:
    """Split into models with one evaluation fingerprint, and models left out with the parts in which they differ.

    wanted: the fingerprint to keep. None keeps the most common one, with preference for one that has both baselines
    and tuned rows.
    """
    kept = wanted if wanted is not None else _commonest(contenders)
    chosen = [model for model in contenders if model.row["fingerprint"] == kept]
    left_out = [
        LeftOut(
            model.name,
            model.experiment,
            model.row["fingerprint"],
            differences(model.parts, chosen[0].parts) if chosen else [],
        )
        for model in contenders
        if model.row["fingerprint"] != kept
    ]
    return chosen, left_out


def _commonest(contenders: Sequence[ScoredModel]) -> str | None:
    counts = Counter(model.row["fingerprint"] for model in contenders)
    kinds: dict[str, set[str]] = {}
    for model in contenders:
        kinds.setdefault(model.row["fingerprint"], set()).add("tuned" if model.kind in TUNED else "untouched")
    return max(counts, key=lambda key: (len(kinds[key]), counts[key], key), default=None)
