"""The base model's choice among labels: its preference for some of them is removed without an answer."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.evaluation.rivals import score
from ft_pipeline.evaluation.rivals.calibrated import calibrated_choice
from ft_pipeline_tests.evaluation.conftest import JobMaker, conversation

LABELS = ["refund", "delivery", "account", "other"]


def likelihoods(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log probabilities of a model that tells labels apart by 1.5 standard deviations, and the true labels."""
    chance = np.random.default_rng(seed)
    truth = chance.integers(len(LABELS), size=count)
    return chance.standard_normal((count, len(LABELS))) + 1.5 * np.eye(len(LABELS))[truth], truth


@pytest.mark.parametrize("bias", [3.0, -6.0, 20.0])
def test_a_planted_preference_is_removed(bias: float) -> None:
    (values, truth), (others, _) = likelihoods(2_000, 1), likelihoods(50, 2)
    planted = np.array([bias, 0.0, 0.0, 0.0])
    unbiased = float(np.mean(values.argmax(axis=1) == truth))
    biased = float(np.mean((values + planted).argmax(axis=1) == truth))
    repaired = float(np.mean(np.array(calibrated_choice(values + planted, others + planted)) == truth))
    assert biased < unbiased - 0.1
    assert repaired == pytest.approx(unbiased, abs=0.03)


def job_over(make_job: JobMaker, folder: Path, splits: dict[str, int], labels: list[str]) -> dict[str, object]:
    rows = [
        conversation(split, f"Question {number} of {split}", labels[number % len(labels)])
        for split, count in splits.items()
        for number in range(count)
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    variants = {"plain": {}, "told": {"system_prompt": "Name the label."}}
    job = make_job(
        "calibrated_scores",
        "scores",
        {"conversations": folder},
        rivals=["calibrated"],
        calibrated={"labels": labels, "variants": variants},
    )
    return score.run(job)


def test_each_answer_is_a_label(make_job: JobMaker, tmp_path: Path) -> None:
    [row] = job_over(make_job, tmp_path / "rows", {"train": 4, "validation": 4, "test": 6}, LABELS)["rows"]  # type: ignore[misc]
    assert row["name"] == row["kind"] == "calibrated" and row["model"]["prompt"] in ("plain", "told")
    assert "nats_per_byte" not in row["scores"] and row["seconds_per_call"] > 0
    samples = pq.read_table(tmp_path / "scores" / "out" / "samples.parquet").to_pylist()
    assert len(samples) == 6 and {sample["answer"] for sample in samples} <= set(LABELS)


def test_without_validation_rows_there_is_nothing_to_calibrate_on(make_job: JobMaker, tmp_path: Path) -> None:
    summary = job_over(make_job, tmp_path / "rows", {"train": 4, "test": 6}, LABELS)
    assert summary["rows"] == []
    assert summary["left_out"] == ["calibrated is left out: there are no validation rows to calibrate on."]
