"""One experiment after another, by `ft run`: cpt → sft with a change of technique, sft → dpo with the same adapter."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.end_to_end.project import current, ft, ft_json, run, small_project

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small_project(tmp_path_factory.mktemp("stages") / "shop", variants=False)
    qlora = yaml.safe_load((root / "experiments" / "qlora.yaml").read_text(encoding="utf-8"))
    phases: dict[str, dict[str, Any]] = {
        "cpt": {"technique": "lora", "objective": "cpt"},
        "cpt_full": {"technique": "full", "start_from": "cpt"},
        "dpo": {"technique": "qlora", "objective": "dpo", "start_from": "qlora"},
    }
    for name, keys in phases.items():
        (root / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump({**qlora, **keys}), encoding="utf-8")
    done = ft(root, "run", "--experiment", "dpo", "--experiment", "cpt_full")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


def test_each_objective_is_in_the_comparison(root: Path) -> None:
    names = {row["name"] for row in ft_json(root, "compare")["rows"]}
    assert {"base", "dpo/adapter", "dpo/merged", "cpt_full/merged"} <= names
    assert "cpt_full/adapter" not in names  # all weights were trained: there is one form


def test_each_training_tells_whether_it_improved_its_own_target(root: Path) -> None:
    document = ft_json(root, "compare")
    own = {(entry["experiment"], entry["label"]): entry for entry in document["own_targets"]}
    assert {("dpo", "Held-out pairs ranked right"), ("dpo", "Held-out margin"), ("cpt_full", "Held-out loss")} <= set(
        own
    )
    assert own["dpo", "Held-out margin"]["before"] == 0.0 and own["cpt_full", "Held-out loss"]["gain"] > 0
    held_out = current(root, "adapter", "dpo").document("held_out.json")
    assert len(held_out["items"]) == own["dpo", "Held-out margin"]["conversations"] > 1
    shown = ft(root, "compare").stdout
    assert "Own targets: " in shown and "Held-out margin" in shown


def test_likelihood_neither_promotes_a_model_of_preferences_nor_calls_it_worse(root: Path) -> None:
    rows = {row["name"]: row for row in ft_json(root, "compare")["rows"]}
    assert rows["dpo/merged"]["learned_from"] == "preferences" and rows["cpt_full/merged"]["learned_from"] is None
    failed = current(root, "decision").document("decision.json")["decision"]["failed"]["dpo/merged"]
    assert any(line.startswith("is not decided against base: dpo/merged was trained to prefer") for line in failed)
    reasons = current(root, "recommendation").document("recommendation.json")["reasons"]
    assert any("no evidence against it" in reason for reason in reasons)
    assert any("Preference pairs fit `dpo` (dpo)." in reason for reason in reasons)
    report = (current(root, "report").path / "report.html").read_text(encoding="utf-8")
    assert 'id="own-targets"' in report and "Held-out pairs ranked right" in report


def test_dpo_continues_the_sft_adapter_and_records_it(root: Path) -> None:
    adapter, store = current(root, "adapter", "dpo"), ArtifactStore(root / "data" / "store")
    start = store.require(*adapter.inputs["start"])
    assert start.spec["config"]["experiment"]["objective"] == "sft"
    assert adapter.inputs["base_model"] == start.inputs["base_model"]
    assert "preferences" in store.require(*adapter.inputs["training_data"]).inputs


def test_a_change_of_technique_starts_from_the_merged_model(root: Path) -> None:
    adapter, store = current(root, "adapter", "cpt_full"), ArtifactStore(root / "data" / "store")
    assert "start" not in adapter.inputs
    base = store.require(*adapter.inputs["base_model"])
    merged = store.require(*base.inputs["merged_model"])
    before = store.require(*merged.inputs["adapter"])
    assert before.spec["config"]["experiment"]["objective"] == "cpt"
    assert base.reference != current(root, "base_model", "cpt_full").reference


def test_a_phase_that_is_already_trained_is_reused(root: Path) -> None:
    """Running the sft experiment reuses the adapter that the dpo run trained for it."""
    steps = {step["asset"]: step["state"] for step in ft_json(root, "run", "--experiment", "qlora")["steps"]}
    assert steps["adapter"] == "reused" and steps["training_data"] == "reused"


def test_a_new_preference_pair_retrains_dpo_but_not_sft(root: Path) -> None:
    pair = {"prompt": "Is the lamp bright?", "chosen": "It has 800 lumens.", "rejected": "No idea, ask somebody else."}
    with (root / "data" / "raw" / "preferences" / "pairs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(pair) + "\n")
    ran = ft_json(root, "run", "--experiment", "dpo", "--experiment", "qlora")["steps"]
    states = {(step["asset"], step["experiment"]): step["state"] for step in ran}
    assert states["adapter", "dpo"] == "built"
    assert states.get(("adapter", "qlora"), "reused") == "reused"


def test_an_embedding_model_sets_aside_rows_of_the_same_meaning(root: Path) -> None:
    before, table = current(root, "conversations"), current(root, "alpaca").fingerprint
    path = root / "project.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["data"] = {"semantic_duplicates": {"model": str(root / "models" / "tiny"), "similarity": 0.9}}
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    done = run(root, "conversations")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    after = current(root, "conversations")
    assert len(after.spec["config"]["semantic_duplicates"]["content"]) == 64
    assert current(root, "alpaca").fingerprint == table
    set_aside = pq.read_table(after.path / "set_aside.parquet").to_pylist()
    messages = [row["message"] for row in set_aside if row["message"].startswith("means the same as ")]
    assert messages and after.summary["splits"]["test"] == before.summary["splits"]["test"]
    assert after.summary["accepted"] == before.summary["accepted"] - len(messages)
