"""Read the scored models of a comparison from scores.json files, and choose those that can be compared."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.result_records import LeftOut
from ft_pipeline.evaluation.model_kinds import OF_A_TRAINING, ModelKind
from ft_pipeline.evaluation.scoring.fingerprint import TOKENS, Parts, differences, tokens_fingerprint


@dataclass(frozen=True)
class ScoredModel:
    """A model under a prompt that was scored: a row of a scores.json file."""

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
    """The folder of its scores artifact."""
    own_metrics: dict[str, dict[str, Any]]
    """The metrics that only this project has, with the fields of Metric."""
    learned_from: str | None = None
    """`preferences` or `rewards`; None if it imitates, or was not trained."""
    made_in: str | None = None
    """The id of the run that scored it; None if it is not recorded."""

    @property
    def tokens(self) -> str:
        """The fingerprint of its vocabulary and template."""
        return tokens_fingerprint(self.parts)

    def records(self, file: str) -> list[dict[str, Any]]:
        """Return its records in samples.parquet, general.parquet or tasks.parquet, in the order of the items."""
        if not (self.folder / file).is_file():
            return []  # older scores do not have this file
        rows = pq.read_table(self.folder / file, filters=[("name", "=", self.row["name"])]).to_pylist()
        return sorted(rows, key=lambda row: row["item"])


def read_scored_models(
    inputs: Mapping[str, Path], champion: Mapping[str, Any] | None, first: Collection[str] = ()
) -> list[ScoredModel]:
    """Return the scored models of every input, in a fixed order.

    first: inputs that come before the others. Baselines of the first base model have names without `@experiment`.

    inputs: folders by `<experiment>/prompt_baseline`, `<experiment>/teacher_scores`, `<experiment>/scores`,
    `<experiment>/gguf_scores`, `<experiment>/calibrated_scores`, `<contender>/contender_scores`, `rivals/rival_scores`
    and `champion/<asset>`. A folder that several experiments share (one base model, scored once) is read once. Names
    without `/` are no scores.
    champion: its record, with `name` (the promoted row) and `experiment`.
    """
    models: list[ScoredModel] = []
    folders_read: dict[str, list[Path]] = {"prompt_baseline": [], "teacher_scores": [], "calibrated_scores": []}
    scores = {key: folder for key, folder in inputs.items() if "/" in key}
    for key, folder in sorted(scores.items(), key=lambda entry: (entry[0] not in first, entry[0])):
        owner, asset = key.split("/", 1)
        if owner == "champion":
            models += _champion_model(_read_scores(key, folder), champion)
        elif asset == "contender_scores":
            models += [_contender(owner, model) for model in _read_scores(key, folder)]
        elif asset == "rival_scores":
            models += [replace(model, name=model.row["name"], experiment=None) for model in _read_scores(key, folder)]
        elif asset in folders_read:
            shared = folders_read[asset]
            if folder.resolve() in shared:
                continue
            shared.append(folder.resolve())
            suffix = f"@{owner}" if len(shared) > 1 else ""
            models += [
                replace(model, name=_row_names(model.row)[0] + suffix, experiment=None)
                for model in _read_scores(key, folder)
            ]
        else:
            models += _read_scores(key, folder)
    return models


def _read_scores(key: str, folder: Path) -> list[ScoredModel]:
    """Return the rows of an input, named as those of an experiment."""
    owner = key.split("/", 1)[0]
    document = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    parts, metrics, made_in = document["evaluation"], document.get("metrics", {}), _run_of(folder)
    return [
        ScoredModel(f"{owner}/{row['name']}", row["kind"], owner, key, row, parts, folder, metrics, made_in=made_in)
        for row in document["rows"]
    ]


def _run_of(folder: Path) -> str | None:
    manifest = folder / "manifest.json"
    run = json.loads(manifest.read_text(encoding="utf-8")).get("run", {}) if manifest.is_file() else {}
    run_id: str | None = run.get("run_id")
    return run_id


def _contender(name: str, model: ScoredModel) -> ScoredModel:
    """Return a contender's model under one of its prompts. Without a prompt, it has the contender's name."""
    variant = model.row["name"]
    return replace(model, name=name if variant == "plain" else f"{name}/{variant}", experiment=None)


def _champion_model(models: Sequence[ScoredModel], champion: Mapping[str, Any] | None) -> list[ScoredModel]:
    """Return the champion among the models of its input; an empty list if it is not there."""
    if champion is None:
        return []
    promoted = champion["name"].split("/")[-1].partition("@")[0]
    return [
        replace(model, name="champion", kind="champion", experiment=champion["experiment"])
        for model in models
        if promoted in _row_names(model.row)
    ]


def _row_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row's name in a comparison, and its name in scores.json. The plain base model is named by its kind."""
    return ("base", row["name"]) if row["kind"] == "base" else (row["name"],)


def comparable_models(inputs: Mapping[str, Path], config: Mapping[str, Any]) -> tuple[list[ScoredModel], list[LeftOut]]:
    """Return split_comparable of the models of a comparison. Contaminated experiments are in neither list.

    Arguments as in compare.build_comparison.
    """
    contaminated = config.get("contaminated", {})
    models = [
        replace(model, learned_from=_learned_from(model, config))
        for model in read_scored_models(inputs, config.get("champion"), config.get("first", ()))
        if model.kind not in OF_A_TRAINING or model.experiment not in contaminated
    ]
    return split_comparable(models, config.get("fingerprint"))


def _learned_from(model: ScoredModel, config: Mapping[str, Any]) -> str | None:
    """Return what the training of a model learned from, unless it imitates."""
    if model.kind == "champion":
        return (config.get("champion") or {}).get("learned_from")
    learned: str | None = config.get("learned_from", {}).get(model.experiment)
    return learned if model.kind in OF_A_TRAINING else None


def split_comparable(models: Sequence[ScoredModel], fingerprint: str | None) -> tuple[list[ScoredModel], list[LeftOut]]:
    """Split into models with one evaluation fingerprint, and models left out with the parts in which they differ.

    fingerprint: the one to keep. None keeps the most common one, with preference for one that has both baselines and
    tuned models.
    """
    kept_fingerprint = fingerprint if fingerprint is not None else _most_common_fingerprint(models)
    kept = [model for model in models if model.row["fingerprint"] == kept_fingerprint]
    left_out = [
        LeftOut(
            name=model.name,
            experiment=model.experiment,
            fingerprint=model.row["fingerprint"],
            differs_in=[part for part in differences(model.parts, kept[0].parts) if part not in TOKENS] if kept else [],
        )
        for model in models
        if model.row["fingerprint"] != kept_fingerprint
    ]
    return kept, left_out


def _most_common_fingerprint(models: Sequence[ScoredModel]) -> str | None:
    counts = Counter(model.row["fingerprint"] for model in models)
    kinds: dict[str, set[str]] = {}
    for model in models:
        kinds.setdefault(model.row["fingerprint"], set()).add("tuned" if model.kind in OF_A_TRAINING else "untouched")
    return max(counts, key=lambda key: (len(kinds[key]), counts[key], key), default=None)
