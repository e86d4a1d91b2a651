"""Promotion and rollback from the terminal, over a real Dagster instance that shows them."""

import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ft_pipeline_tests.end_to_end.project import Finished, ft_in_turn

pytestmark = [pytest.mark.slow, pytest.mark.long]


def shown(root: Path) -> list[str]:
    """The names of the champions that the UI shows, oldest first."""
    with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance:
        materializations = instance.fetch_materializations(dg.AssetKey("champion"), limit=100).records
    events = [record.asset_materialization for record in reversed(materializations)]
    records = [event.metadata["champion"].value for event in events if event and "champion" in event.metadata]
    return [record["name"] for record in records]  # type: ignore[index, call-overload]


def test_a_run_keeps_a_forced_promotion_and_a_rollback(finished: Finished, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "shop"))
    # A random model is behind the nearest training answer, and eight test rows show no lead: a person releases it.
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["evaluation"]["rivals"] = []
    (root / "project.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    _, _, (_, before), refused, careless, forced, run, back, again, champion = ft_in_turn(
        root,
        ("run", "--experiment", "qlora"),
        ("promote", "qlora/merged", "--force", "--reason", "a first model"),
        ("champion",),
        ("promote", "few_shot"),
        ("promote", "few_shot", "--force"),
        ("promote", "few_shot", "--force", "--reason", "complaints about the tone"),
        ("run", "--experiment", "qlora"),
        ("rollback", "--reason", "it was not the model"),
        ("run", "--experiment", "qlora"),
        ("champion",),
    )
    assert (refused[0], careless[0]) == (1, 2)
    code, record = forced
    assert (code, record["name"], record["forced"], record["reason"]) == (
        0,
        "few_shot",
        True,
        "complaints about the tone",
    )
    assert record["previous"] == before["name"] == "qlora/merged"
    # The run compares the champion again, without loading a model, and keeps the person's choice.
    assert [step["asset"] for step in run[1]["steps"]] == [
        "comparison",
        "decision",
        "recommendation",
        "champion",
        "model_card",
        "report",
    ]
    assert run[1]["champion"]["sequence"] == record["sequence"]
    same = ("name", "kind", "experiment", "fingerprint", "fingerprints", "evidence", "previous")
    assert (back[0], {key: back[1][key] for key in same}) == (0, {key: before[key] for key in same})
    assert again[1]["champion"]["sequence"] == champion[1]["sequence"] == back[1]["sequence"] == 3
    assert shown(root)[:1] == ["qlora/merged"]
    assert list(dict.fromkeys(shown(root)[1:])) == ["few_shot", "qlora/merged"]
