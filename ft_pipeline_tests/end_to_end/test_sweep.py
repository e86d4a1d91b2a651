"""`seeds` and `learning_curve` by `ft run`, on the tiny model: members are trained and compared, but not candidates."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline.release.report.report import FILE_NAME
from ft_pipeline_tests.end_to_end.project import current, ft, ft_json, small_project

pytestmark = [pytest.mark.slow, pytest.mark.long]
MEMBERS = ("lora", "lora.at50", "lora.seed1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small_project(tmp_path_factory.mktemp("series") / "shop", variants=False)
    experiment = yaml.safe_load((root / "experiments" / "qlora.yaml").read_text(encoding="utf-8"))
    experiment |= {"technique": "lora", "data": {"weights": {"distilled": 0}}, "seeds": 2, "learning_curve": [0.5]}
    (root / "experiments" / "qlora.yaml").unlink()
    (root / "experiments" / "lora.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    done = ft(root, "run", "--experiment", "lora")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


def test_running_one_experiment_trains_all_its_sweep_members(root: Path) -> None:
    experiments = ft_json(root, "experiments")["experiments"]
    assert [(experiment["name"], experiment["state"]) for experiment in experiments] == [
        (name, "fresh") for name in MEMBERS
    ]
    assert len({current(root, "adapter", name).fingerprint for name in MEMBERS}) == 3
    assert current(root, "adapter", "lora.seed1").spec["seed"] == 43
    assert len({current(root, "base_model", name).fingerprint for name in MEMBERS}) == 1


def test_the_half_is_a_subset_of_all_training_rows(root: Path) -> None:
    half, whole = (
        pq.read_table(current(root, "training_data", name).path / "train.parquet")["id"].to_pylist()
        for name in ("lora.at50", "lora")
    )
    assert set(half) < set(whole)
    assert len(half) == pytest.approx(len(whole) / 2, abs=len(whole) * 0.1)
    held_out = [pq.read_table(current(root, "training_data", name).path / "validation.parquet") for name in MEMBERS]
    assert held_out[0].equals(held_out[1])


def test_the_comparison_shows_the_members_with_their_row(root: Path) -> None:
    document = ft_json(root, "compare")
    assert not any("." in row["name"] for row in document["rows"])
    assert [(entry["row"], entry["trainings"]) for entry in document["seeds"]] == [
        ("lora/adapter", 2),
        ("lora/merged", 2),
    ]
    (first, second) = document["seeds"][0]["scores"]["loss"]["values"]
    assert first != second
    points = document["learning_curves"][0]["points"]
    assert [point["share"] for point in points] == [0.5, 1.0] and points[0]["rows"] < points[1]["rows"]
    shown = ft(root, "compare").stdout
    assert "lora/merged, trained with 2 seeds: nats per byte" in shown and "the gain from the last step is" in shown
    report = (current(root, "report").path / FILE_NAME).read_text(encoding="utf-8")
    assert "Variation between seeds" in report and "Effect of more training rows" in report


def test_a_sweep_member_cannot_be_promoted(root: Path) -> None:
    refused = ft(root, "promote", "lora.seed1")
    assert refused.returncode != 0 and "The comparison has no row 'lora.seed1'. Choose one of" in refused.stderr


def test_seeds_with_other_settings_are_left_out_until_they_are_retrained(root: Path) -> None:
    path = root / "experiments" / "lora.yaml"
    changed = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed["training"]["weight_decay"] = 0.1
    del changed["learning_curve"]
    path.write_text(yaml.safe_dump({**changed, "seeds": 1}), encoding="utf-8")
    assert ft(root, "run", "--experiment", "lora").returncode == 0
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    assert ft(root, "run", "--experiment", "lora", "--select", "comparison").returncode == 0
    document = ft_json(root, "compare")
    assert document["seeds"] == []
    assert [(member["name"], member["differs_in"]) for member in document["left_out"]] == [("lora.seed1", ["training"])]
