"""`ft export --format gguf` as a user runs it: the files are made in the graph, and nothing is stale afterwards."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.end_to_end.project import current, ft, ft_json, small_project
from ft_pipeline_tests.tiny_spm import spm_model

pytest.importorskip("llama_cpp_py_sync")
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project, trained and scored, whose model llama.cpp can convert."""
    root = small_project(tmp_path_factory.mktemp("gguf") / "shop", variants=False)
    spm_model(root / "models" / "tiny")
    done = ft(root, "run", "--experiment", "qlora")
    assert done.returncode == 0, done.stderr[-4000:]
    return root


def stale(root: Path) -> list[dict[str, Any]]:
    plan = ft_json(root, "run", "--experiment", "qlora", "--plan")["plan"]
    return [step for step in plan if step["runs"]]


def records(root: Path) -> dict[str, bytes]:
    """The records of champions and tests."""
    store = root / "data" / "store"
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for folder in ("champion", "exposures")
        for path in sorted((store / folder).rglob("*"))
        if path.is_file()
    }


def test_an_export_makes_the_files_and_leaves_nothing_stale(shop: Path) -> None:
    store = ArtifactStore(shop / "data" / "store")
    assert stale(shop) == [] and store.all("gguf") == []  # a step that nothing asks for is not in the graph
    before = records(shop)
    out = shop / "exported"
    document = ft_json(shop, "export", "qlora", str(out), "--format", "gguf", "--quantize", "f32,q8_0", "--force")
    assert set(document["types"]) == {"f32", "q8_0"} and document["in_comparison"]
    assert document["conversion"]["agreement"]["value"] == 1.0
    names = ["larkfield-support-qlora-f32.gguf", "larkfield-support-qlora-q8_0.gguf"]
    documents = {"README.md", "generation_config.json", "bom.cdx.json", "SHA256SUMS", "model.sig"}
    assert documents | {*names, "Modelfile.f32", "Modelfile.q8_0"} <= {path.name for path in out.iterdir()}
    assert document["no_modelfile"] is None and document["signed"]
    assert stale(shop) == []
    rows = {row["name"]: row for row in ft_json(shop, "compare")["rows"]}
    assert rows["qlora/gguf-q8_0"]["gguf"]["kl"] == document["types"]["q8_0"]["costs"]["kl"]
    assert records(shop) == before  # no file is a candidate, and no test was made again
    again = ft(shop, "export", "qlora", str(shop / "again"), "--format", "gguf", "--quantize", "q8_0", "--force")
    assert again.returncode == 0 and "built" not in again.stderr
    assert len(store.all("gguf")) == 1


def test_types_in_the_yaml_are_made_by_a_run_without_training_again(shop: Path) -> None:
    path = shop / "experiments" / "qlora.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "gguf: [q4_0]\n", encoding="utf-8")
    planned = {step["asset"]: step["reason"] for step in stale(shop)}
    assert planned["gguf"] == "settings changed: types"
    assert not {"experiment", "training_data", "adapter", "merged_model", "scores"} & planned.keys()
    before = {row["name"]: row for row in current(shop, "gguf_scores", "qlora").summary["rows"]}
    assert ft(shop, "run", "--experiment", "qlora", "--select", "gguf,gguf_scores").returncode == 0
    after = {row["name"]: row for row in current(shop, "gguf_scores", "qlora").summary["rows"]}
    assert after == {**before, "gguf-q4_0": after["gguf-q4_0"]}  # with their times: they were not measured again


def test_a_target_that_is_not_empty_is_refused_before_any_work(shop: Path) -> None:
    refused = ft(shop, "export", "qlora", str(shop / "experiments"), "--format", "gguf", "--quantize", "q6_k")
    assert refused.returncode == 2 and "is not empty. Choose a new or empty folder" in refused.stderr
    unknown = ft(shop, "export", "qlora", str(shop / "new"), "--format", "gguf", "--quantize", "q9")
    assert unknown.returncode == 2 and "'q9' is not a GGUF type that is supported" in unknown.stderr
    assert current(shop, "gguf", "qlora").document("gguf.json")["files"].keys() == {"f32", "q8_0", "q4_0"}


def test_a_champion_that_was_trained_again_is_made_beside_the_graph(shop: Path) -> None:
    assert ft(shop, "promote", "qlora", "--force", "--reason", "to serve it").returncode == 0
    champion = current(shop, "champion").summary["champion"]["fingerprint"]
    path = shop / "experiments" / "qlora.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["training"]["seed"] = 7
    settings.pop("gguf", None)
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert ft(shop, "run", "--experiment", "qlora").returncode == 0
    rows = ft_json(shop, "compare")["rows"]
    assert not any(row["kind"] == "gguf" for row in rows)  # they were of another merged model
    before = stale(shop)
    out = shop / "champion"
    document = ft_json(shop, "export", "champion", str(out), "--format", "gguf", "--quantize", "q8_0", "--force")
    assert document["fingerprint"] == champion != current(shop, "merged_model", "qlora").fingerprint
    assert not document["in_comparison"] and (out / "larkfield-support-qlora-q8_0.gguf").is_file()
    assert [row["name"] for row in ft_json(shop, "compare")["rows"]] == [row["name"] for row in rows]
    assert stale(shop) == before
