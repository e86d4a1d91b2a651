"""What a comparison is made of: the rows of scores.json files, named uniquely, with the samples behind them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.evaluation.scoring.fingerprint import Parts, differences


@dataclass(frozen=True)
class ScoredModel:
    """One row of a comparison before anything is computed."""

    name: str
    """Unique in its comparison."""
    kind: str
    experiment: str | None
    source: str
    """The input that it was read from, `<experiment>/<asset>`."""
    row: dict[str, Any]
    """Its row in scores.json."""
    parts: Parts
    """What its evaluation fingerprint is made of."""
    folder: Path
    own_metrics: dict[str, dict[str, Any]]
    """Those of its task only, as Metric."""

    def records(self, file: str) -> list[dict[str, Any]]:
        """Its part of samples.parquet, general.parquet or tasks.parquet, in the order of the items."""
        if not (self.folder / file).is_file():
            return []  # scored before there was such a file
        rows = pq.read_table(self.folder / file, filters=[("name", "=", self.row["name"])]).to_pylist()
        return sorted(rows, key=lambda row: row["item"])


def read_scored_models(inputs: Mapping[str, Path], champion: Mapping[str, Any] | None) -> list[ScoredModel]:
    """The rows of every input, in a fixed order.

    inputs: folders by `<experiment>/prompt_baseline`, `<experiment>/teacher_scores`, `<experiment>/scores` and
    `champion/<asset>`. A folder that several experiments share (one base model, scored once) gives its rows once.
    champion: its record, `name` (the row that was promoted) and `experiment`.
    """
    contenders: list[ScoredModel] = []
    shared: dict[str, list[Path]] = {"prompt_baseline": [], "teacher_scores": []}
    for key in sorted(inputs):
        owner, asset = key.split("/", 1)
        document = json.loads((inputs[key] / "scores.json").read_text(encoding="utf-8"))
        rows, parts, own = document["rows"], document["evaluation"], document.get("metrics", {})
        if owner == "champion":
            wanted = champion["name"].split("/")[-1] if champion else None
            experiment = champion["experiment"] if champion else None
            found = [("champion", "champion", experiment, row) for row in rows if wanted in _names(row)]
        elif asset in shared:
            seen = shared[asset]
            if inputs[key].resolve() in seen:
                continue
            seen.append(inputs[key].resolve())
            suffix = f"@{owner}" if len(seen) > 1 else ""
            found = [(_names(row)[0] + suffix, row["kind"], None, row) for row in rows]
        else:
            found = [(f"{owner}/{row['name']}", row["kind"], owner, row) for row in rows]
        contenders += [
            ScoredModel(name, kind, who, key, row, parts, inputs[key], own) for name, kind, who, row in found
        ]
    return contenders


def _names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row's name in a comparison, then in its scores.json: the plain untouched model is called by its kind."""
    return ("base", row["name"]) if row["kind"] == "base" else (row["name"],)


def comparable(contenders: Sequence[ScoredModel], wanted: str | None) -> tuple[list[ScoredModel], list[dict[str, Any]]]:
    """Split into those with one evaluation fingerprint and those left out, each with what differs.

    wanted: the fingerprint to keep; None keeps the one that most rows have, before all one that has both untouched
    and tuned rows.
    """
    kept = wanted if wanted is not None else _commonest(contenders)
    chosen = [one for one in contenders if one.row["fingerprint"] == kept]
    left_out = [
        {
            "name": one.name,
            "experiment": one.experiment,
            "fingerprint": one.row["fingerprint"],
            "differs_in": differences(one.parts, chosen[0].parts) if chosen else [],
        }
        for one in contenders
        if one.row["fingerprint"] != kept
    ]
    return chosen, left_out


def _commonest(contenders: Sequence[ScoredModel]) -> str | None:
    counts = Counter(one.row["fingerprint"] for one in contenders)
    kinds: dict[str, set[str]] = {}
    for one in contenders:
        kinds.setdefault(one.row["fingerprint"], set()).add("tuned" if one.kind in TUNED else "untouched")
    return max(counts, key=lambda key: (len(kinds[key]), counts[key], key), default=None)
