"""A report with every section that a report may have."""

import json
import shutil
from pathlib import Path
from typing import Any

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResult, FieldResults
from ft_pipeline.evaluation.comparison.result_records import (
    CurvePoint,
    CurveStep,
    LearningCurve,
    SeedScores,
    SeedSpread,
)
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline_tests.release.trained import Trained


def full_report(shop: Trained) -> Path:
    """Return the report of a project with two trained models and a comparison."""
    compared = shop.store.all("comparison")[-1]
    inputs = {name: shop.store.require(*reference) for name, reference in compared.inputs.items()}
    config = {**compared.spec["config"], "rare": True}
    shop.put("comparison", inputs, lambda out: _with_rare_results(compared, out), {}, config)
    return shop.decide().path / "report.html"


def _with_rare_results(compared: Artifact, out: Path) -> None:
    """Write a comparison again, with results that its project has not."""
    for path in (*compared.path.glob("*.parquet"), *compared.path.glob("*.md")):
        shutil.copyfile(path, out / path.name)
    document = {**compared.document("comparison.json"), **_rare_results(read_comparison(compared))}
    (out / "comparison.json").write_text(json.dumps(document), encoding="utf-8")


def _rare_results(comparison: Comparison) -> dict[str, Any]:
    """Results of checks, seeds and shares of the rows, by their key in comparison.json."""
    metric, score = comparison.primary_metric, Score(0.5, 0.4, 0.6)
    points = [
        CurvePoint(experiment=f"lora.at{share}", share=share, rows=share, scores={metric: score}) for share in (50, 100)
    ]
    results = {
        "own_targets": [
            OwnTarget(
                experiment="lora",
                objective="sft",
                label="Held-out loss",
                unit="nats",
                lower_is_better=True,
                conversations=2,
                before=3.0,
                after=2.0,
                gain=1.0,
                low=0.5,
                high=1.5,
            )
        ],
        "seeds": [
            SeedSpread(
                row="lora/merged",
                experiment="lora",
                trainings=2,
                scores={metric: SeedScores(mean=2.0, min=1.0, max=3.0, values=[1.0, 3.0])},
            )
        ],
        "learning_curves": [
            LearningCurve(
                row="lora/merged",
                experiment="lora",
                points=points,
                last_step=CurveStep(metric=metric, difference=0.1, low=0.0, high=0.2),
            )
        ],
        "field_results": [
            FieldResults(
                row=row.name,
                metric="order",
                fields=[FieldResult(field="number", answers=5, right=score, wrong=1, missing=1, extra=1)],
            )
            for row in comparison.rows
        ],
        "confusions": [
            Confusion(row=row.name, metric="label", labels=["a", "b"], counts=[[1, 2, 0], [1, 1, 0]])
            for row in comparison.rows
        ],
    }
    return {name: [entry.model_dump() for entry in entries] for name, entries in results.items()}
