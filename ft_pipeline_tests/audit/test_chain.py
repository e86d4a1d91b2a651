"""The audit chain from a model or artifact back to the raw files, read from the manifests alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_pipeline.audit.chain import walk
from ft_pipeline.audit.subject import find_subject
from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.store.manifest import sealed_manifest
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import Shop

MODEL = {"merged_model", "adapter", "training_data", "base_model", "conversations"}
DATA = {"alpaca", "sharegpt", "raw_alpaca", "raw_sharegpt"}


def kinds(shop: Shop, name: str) -> list[str]:
    index = ArtifactIndex(shop.store.root)
    return [node.kind for node in walk(index, find_subject(index, name)).nodes]


def test_a_champion_is_traced_back_to_its_raw_files(released: Shop, ft_json: Command) -> None:
    document = ft_json("audit")
    assert {node["kind"] for node in document["nodes"]} == MODEL | DATA | {"comparison", "scores"}
    assert document["verified"] is None and document["problems"] == []
    assert document["record"]["reason"] == "beats base by 0.4 on loss"
    by_kind = {node["kind"]: node for node in document["nodes"]}
    adapter = by_kind["adapter"]
    assert adapter["key"] == "adapter[qlora]" and adapter["started_by"] == "cli ada" and adapter["run_id"] == "run-1"
    assert adapter["config"]["experiment"]["training"]["learning_rate"] == 1e-3
    assert adapter["seeds"] == {"seed": 0, "experiment.training.seed": 42}
    assert set(adapter["inputs"]) == {by_kind[kind]["fingerprint"] for kind in ("training_data", "base_model")}
    (file,) = by_kind["raw_alpaca"]["raw_files"]
    assert (file["name"], file["kept"]) == ("support.jsonl", "copy")
    assert len(file["sha256"]) == 64


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("qlora", "merged_model"),
        ("qlora/merged", "scores"),
        ("champion@1", "merged_model"),
        ("adapter@qlora", "adapter"),
        ("conversations", "conversations"),
    ],
)
def test_each_kind_of_name_starts_its_chain(released: Shop, name: str, first: str) -> None:
    chain = kinds(released, name)
    assert chain[0] == first and "raw_alpaca" in chain


def test_a_fingerprint_is_a_name_too(released: Shop) -> None:
    pointer = ArtifactIndex(released.store.root).pointer("adapter", "qlora")
    assert pointer is not None
    assert kinds(released, pointer.fingerprint[:12])[0] == "adapter"


def test_an_unknown_name_is_refused_with_the_known_ones(released: Shop) -> None:
    with pytest.raises(UserError, match=r"experiments \(qlora\), rows of `ft compare` \(qlora/adapter, qlora/merged\)"):
        kinds(released, "qlor")
    with pytest.raises(UserError, match=r"There is no champion record 7. Choose one from 1 to 1"):
        kinds(released, "champion@7")


def test_an_audit_before_the_first_release_is_refused(shop: Shop) -> None:
    with pytest.raises(UserError, match="Nothing has been released yet"):
        kinds(shop, "champion")


def test_a_store_is_verified_before_the_first_release(shop: Shop, ft: Command) -> None:
    shop.materialize()
    code, shown = ft("audit", "--verify")
    assert code == 0 and "all hashes match the records" in shown
    done = CliRunner().invoke(app, ["audit", "champion", "--verify"])
    assert done.exit_code == 2 and "Nothing has been released yet" in done.stderr


def test_the_tree_shows_artifacts_and_raw_files(released: Shop, ft: Command) -> None:
    code, shown = ft("audit")
    assert code == 0
    for part in ("qlora/merged, record 1", "adapter[qlora]", "raw_alpaca", "support.jsonl", "by cli ada"):
        assert part in shown


def test_an_edited_manifest_breaks_the_chain_even_with_a_valid_seal(released: Shop, ft_json: Command) -> None:
    (path,) = (released.store.root / "artifacts" / "training_data").glob("*/*/manifest.json")
    manifest = json.loads(path.read_bytes())
    manifest["run"]["started_by"] = "nobody"
    path.write_bytes(sealed_manifest(manifest))
    problems = ft_json("audit")["problems"]
    assert problems and all("training_data[qlora]" in problem for problem in problems)
    assert "edited or replaced" in problems[0]


def test_equal_content_of_two_specs_does_not_break_the_chain(released: Shop, ft_json: Command) -> None:
    """A reference is compared with the manifest of its own spec only."""
    made = released.materialize()
    first = released.put("conversations_copy", None, {"conversations": made["conversations"]}, {"n": 1}, {"a": b"1"})
    second = released.put("conversations_copy", None, {"conversations": made["conversations"]}, {"n": 2}, {"a": b"1"})
    assert first.fingerprint == second.fingerprint and first.manifest_sha256 != second.manifest_sha256
    released.put("pair", None, {"one": first}, {}, {"b": b"2"})
    assert ft_json("audit", "pair")["problems"] == []


def test_the_audit_loads_no_heavy_library(released: Shop) -> None:
    """Neither Dagster nor torch is loaded, and no database is opened."""
    script = (
        "import sys; from ft_pipeline.cli import app; app(['audit', '--json'], standalone_mode=False);"
        "print(sorted({'dagster', 'torch', 'transformers', 'pandera'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert list(Path(released.root / "dagster_home").iterdir()) == []
