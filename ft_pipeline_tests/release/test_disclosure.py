"""What an export says to others: valid, reproducible, and without a row, a file name or a path."""

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.decide.sources.guardrails import claim_of
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.guardrails import Rail
from ft_pipeline.project import Project
from ft_pipeline.release.disclosure.bom import build_bom
from ft_pipeline.release.disclosure.facts import ExportFacts, export_facts
from ft_pipeline.release.disclosure.folder import disclose
from ft_pipeline.release.export.huggingface import plan_export, write_export
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.release.push.parcel import parcel_of
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline_tests.fixtures.packing import unpack
from ft_pipeline_tests.release.trained import RAW_FILE, TALKS, Trained

FINISHED = Path(__file__).parents[1] / "fixtures" / "store_a73cd80.tar.zst"
FORMS = [("lora", True), ("lora", False), ("whole", False), ("learned", False)]
REFERENCES = {"provenance.json": "0" * 64, "training_rows.txt": "1" * 64}


def facts_of(trained: Trained, name: str, *, merged: bool, **settings: Any) -> ExportFacts:
    plan = plan_export(trained.store, find_model(trained.store, name), trained.root / "never", merged=merged)
    project = Project(trained.root).settings
    return export_facts(trained.store, plan.model, project.model_copy(update=settings))


def export_to(folder: Path, trained: Trained, name: str, *, merged: bool) -> Path:
    """An export that is not signed."""
    plan = plan_export(trained.store, find_model(trained.store, name), folder, merged=merged)
    facts = facts_of(trained, name, merged=merged)
    write_export(plan, lambda draft: disclose(draft, facts, None))
    return folder


def document(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def schema_error(bom: Any) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom))


def values(properties: list[dict[str, str]]) -> dict[str, str]:
    return {entry["name"].removeprefix("ft:"): entry["value"] for entry in properties}


def components(bom: Any) -> dict[str, Any]:
    return {component["bom-ref"]: component for component in bom["components"]}


def sha256sum(folder: Path, *arguments: str, listed: str = "") -> None:
    done = subprocess.run(
        ["sha256sum", "-c", *arguments], check=False, cwd=folder, input=listed, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0]}-{'merged' if form[1] else 'own'}")
def folder(request: pytest.FixtureRequest, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, merged = request.param
    return export_to(tmp_path_factory.mktemp("exports") / "model", trained, name, merged=merged)


def test_the_bill_of_materials_follows_the_schema_and_its_hashes_fit(folder: Path) -> None:
    bom = document(folder, "bom.cdx.json")
    assert schema_error(bom) is None
    model = bom["metadata"]["component"]
    references = {entry["url"]: entry for entry in model["externalReferences"]}
    for entry in [references["provenance.json"], references["training_rows.txt"]]:
        assert entry["hashes"] == [{"alg": "SHA-256", "content": sha256_of_file(folder / entry["url"])}]
    for entry in model["components"]:
        assert entry["hashes"][0]["content"] == sha256_of_file(folder / entry["name"])
    assert model["components"] and "README.md" in references


def test_the_hashes_of_the_card_and_of_the_list_are_reproduced_by_sha256sum(folder: Path) -> None:
    sha256sum(folder, "SHA256SUMS")
    listed = {line.split("  ", 1)[1] for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert listed == present - {"SHA256SUMS"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    block = card.split("```text\n")[1].split("```")[0]
    assert {"bom.cdx.json", "provenance.json", "training_rows.txt"} < {line.split()[1] for line in block.splitlines()}
    sha256sum(folder, "-", listed=block)


def test_the_provenance_names_the_weights_and_what_they_were_made_from(folder: Path, trained: Trained) -> None:
    statement = document(folder, "provenance.json")
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert statement["subject"]
    for subject in statement["subject"]:
        assert not subject["name"].startswith("base/")
        assert subject["digest"] == {"sha256": sha256_of_file(folder / subject["name"])}
    predicate = statement["predicate"]
    names = {entry["name"] for entry in predicate["buildDefinition"]["resolvedDependencies"]}
    assert {"base model, as it was read: model.safetensors", "ft-pipeline source", "torch"} <= names
    assert sum(name.startswith("data: alpaca/") for name in names) == 1
    assert {"builder", "metadata", "byproducts"} == predicate["runDetails"].keys()


def test_no_file_holds_a_row_a_file_name_or_a_path(folder: Path, trained: Trained) -> None:
    texts = [text for turns in (*TALKS["train"], *TALKS["test"]) for text in turns if len(text) > 12]
    hidden = [*texts, RAW_FILE, RAW_FILE.removesuffix(".jsonl"), str(trained.root), str(folder.parent)]
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for text in hidden:
            assert text.encode() not in content and json.dumps(text)[1:-1].encode() not in content, (path, text)


def test_the_card_is_read_by_the_hubs_library_and_keeps_its_results(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    assert card.data.eval_results and card.data.pipeline_tag == "text-generation"
    assert {result.metric_type for result in card.data.eval_results} >= {"loss", "chrf"}
    assert all(isinstance(result.metric_value, float) for result in card.data.eval_results)
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict() and again.text == card.text
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]


def test_the_same_model_gives_the_same_files_anywhere(trained: Trained, tmp_path: Path) -> None:
    one, other = (export_to(tmp_path / name, trained, "lora", merged=False) for name in ("one", "other"))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for name in files:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Preferences after a first phase with answers of a teacher, and no comparison."""
    project = Trained(tmp_path_factory.mktemp("chain") / "shop")
    project.train("first", "lora", teacher="/home/ada/models/big")
    project.train("second", "lora", objective="dpo", start="first")
    yield project


def test_a_chain_of_phases_without_a_comparison(chain: Trained, tmp_path: Path) -> None:
    folder = export_to(tmp_path / "out", chain, "second", merged=True)
    bom = document(folder, "bom.cdx.json")
    assert schema_error(bom) is None
    model = bom["metadata"]["component"]
    assert model["pedigree"]["notes"].startswith("sft with lora on 2 rows, then dpo with lora on 2 rows")
    assert [ancestor["name"] for ancestor in model["pedigree"]["ancestors"]] == ["phase 1: sft with lora", "tiny"]
    assert "quantitativeAnalysis" not in model["modelCard"]
    assert any("no score" in limit for limit in model["modelCard"]["considerations"]["technicalLimitations"])
    assert [workflow["name"] for workflow in bom["formulation"][0]["workflows"]] == [
        "phase 1: sft with lora",
        "phase 2: dpo with lora",
    ]
    settings = document(folder, "provenance.json")["predicate"]["buildDefinition"]["externalParameters"]["phases"]
    assert [phase["objective"] for phase in settings] == ["sft", "dpo"]
    sha256sum(folder, "SHA256SUMS")


def test_a_teacher_of_an_earlier_phase_is_named_without_its_folder(chain: Trained, tmp_path: Path) -> None:
    folder = export_to(tmp_path / "out", chain, "second", merged=False)
    assert components(document(folder, "bom.cdx.json"))["teacher"]["name"] == chain.base.summary["source"]
    for path in folder.rglob("*"):
        assert path.is_dir() or b"/home/ada" not in path.read_bytes()


def test_a_champion_that_is_a_prompt_is_refused(trained: Trained, tmp_path: Path) -> None:
    champion = replace(find_model(trained.store, "few_shot"), name="champion")
    with pytest.raises(UserError, match="the base model with a prompt, so there is no trained model to export"):
        plan_export(trained.store, champion, tmp_path / "out", merged=False)


def test_scores_have_their_intervals_as_texts(trained: Trained) -> None:
    facts = facts_of(trained, "lora", merged=True)
    bom = build_bom(facts, {"model.safetensors": "2" * 64}, REFERENCES)
    metrics = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    row = facts.card.comparison.row("lora/merged")
    assert row is not None and len(metrics) == len(row.scores)
    loss = next(metric for metric in metrics if metric["type"].startswith("loss: "))
    assert float(loss["value"]) == pytest.approx(row.scores["loss"].value, rel=1e-5)
    low, high = (float(loss["confidenceInterval"][key]) for key in ("lowerBound", "upperBound"))
    assert low < float(loss["value"]) < high


def test_a_limit_that_is_off_is_no_result_in_the_bill(trained: Trained) -> None:
    """The right answers have one word, as the references do."""
    facts = facts_of(trained, "lora", merged=True)
    row = facts.card.comparison.row("lora/merged")
    assert row is not None
    rails = [
        Rail("empty", "are empty", 60, 60, 0.95, 1.0, 0.05, "off"),
        Rail("refusal", "refuse without need", 9, 60, 0.09, 0.23, 0.05, "not checked"),
        Rail("repetition", "repeat themselves", 3, 60, 0.02, 0.13, 0.05, "cannot be told"),
    ]
    compared, claims = facts.card.comparison, [claim_of(row.name, rail) for rail in rails]
    comparison = compared.changed(rows=[row], claims=claims)
    facts = replace(facts, card=replace(facts.card, comparison=comparison))
    bom = build_bom(facts, {"model.safetensors": "2" * 64}, REFERENCES)
    limits = bom["metadata"]["component"]["modelCard"]["considerations"]["technicalLimitations"]
    assert [limit for limit in limits if "answers that" in limit or "its answers" in limit] == [
        "limit on answers that are empty: off, the references have this fault, too",
        "limit on answers that refuse without need: not checked, its patterns are for another language",
        "5% of its answers repeat themselves (2% to 13%; at most 5% is wanted): cannot be told",
    ]


def test_licenses_of_data_are_those_that_the_project_states(trained: Trained) -> None:
    settings = Project(trained.root).settings
    stated = {f"alpaca/{RAW_FILE}": "cc-by-4.0", "sharegpt": "Contract 4711 of 2026, internal use"}
    data = settings.data.model_copy(update={"licenses": stated})
    assert data.config() == settings.data.config(), "they are no part of a spec"
    bom = build_bom(facts_of(trained, "lora", merged=True, data=data), {"model.safetensors": "2" * 64}, REFERENCES)
    assert schema_error(bom) is None
    files = {ref: entry for ref, entry in components(bom).items() if ref.startswith("data:")}
    licenses = {ref.split("/")[0]: entry["licenses"] for ref, entry in files.items()}
    assert licenses == {
        "data:alpaca": [{"license": {"id": "CC-BY-4.0"}}],
        "data:sharegpt": [{"license": {"name": "Contract 4711 of 2026, internal use"}}],
    }


def test_a_license_of_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'alpacca', which is in no folder of data/raw"):
        DataSettings(licenses={"alpacca": "MIT"})


def test_a_teacher_is_named_with_its_terms(trained: Trained) -> None:
    facts = facts_of(trained, "lora", merged=True)
    teacher = {"model": "big-1", "host": "api.example", "terms": "Answers may train\nother models.", "kept": 7}
    card = replace(facts.card, teacher={**teacher, "set_aside": 2, "weight": 0.25})
    bom = build_bom(replace(facts, card=card), {"model.safetensors": "2" * 64}, REFERENCES)
    assert schema_error(bom) is None
    component = components(bom)["teacher"]
    assert component["name"] == "big-1" and values(component["properties"])["host"] == "api.example"
    assert component["licenses"][0]["license"]["name"].endswith("Answers may train other models.")
    depends = {entry["ref"]: entry["dependsOn"] for entry in bom["dependencies"]}
    assert "teacher" in depends["training-rows"] and "test-rows" not in depends["model"]
    silent = replace(facts, card=replace(card, teacher={**card.teacher, "terms": ""}))
    component = components(build_bom(silent, {}, REFERENCES))["teacher"]
    assert "licenses" not in component and values(component["properties"])["terms"] == "not stated by the project"


def test_a_base_model_of_the_hub_has_its_package_url(tmp_path: Path) -> None:
    hosted = Trained(tmp_path / "shop", model="org/tiny")
    hosted.train("lora", "lora")
    bom = build_bom(facts_of(hosted, "lora", merged=False), {"adapter_model.safetensors": "2" * 64}, REFERENCES)
    assert schema_error(bom) is None
    assert components(bom)["base-model"]["purl"] == "pkg:huggingface/org/tiny@abc"


def test_withheld_rows_are_said_on_the_card_and_in_the_bill(trained: Trained, tmp_path: Path) -> None:
    facts = facts_of(trained, "lora", merged=True)
    erased = replace(facts, rows=replace(facts.rows, withheld=3), card=replace(facts.card, has_erased_rows=True))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    disclose(tmp_path, erased, None)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "erased since the training, and whose leaves are withheld: 3." in card
    bom = document(tmp_path, "bom.cdx.json")
    assert schema_error(bom) is None
    counts = components(bom)["training-rows"]["data"][0]["contents"]["properties"]
    assert values(counts) == {"rows": "2", "withheld": "3", "merkle_root": facts.rows.root}
    assert values(bom["metadata"]["component"]["properties"])["erased_rows"].startswith("rows that it was trained on")


def test_a_folder_with_gguf_files_is_described_and_may_be_pushed(trained: Trained, tmp_path: Path) -> None:
    for name in ("lora-q8_0.gguf", "lora-q4_k_m.gguf", "Modelfile", "generation_config.json"):
        (tmp_path / name).write_bytes(name.encode())
    facts = facts_of(trained, "lora", merged=True)
    disclose(tmp_path, facts, None, lambda card: card.replace("library_name: transformers", "library_name: gguf", 1))
    bom = document(tmp_path, "bom.cdx.json")
    assert schema_error(bom) is None
    model = bom["metadata"]["component"]
    assert values(model["properties"])["form"] == "gguf"
    assert [entry["name"] for entry in model["components"]] == ["lora-q4_k_m.gguf", "lora-q8_0.gguf"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert all(metric["slice"].endswith("measured before the conversion to GGUF") for metric in metrics)
    assert len(document(tmp_path, "provenance.json")["subject"]) == 2
    assert ModelCard((tmp_path / "README.md").read_text(encoding="utf-8")).data.library_name == "gguf"
    assert parcel_of(tmp_path).hashes.keys() == {path.name for path in tmp_path.iterdir()}


def leaf_of(salt: str, row: dict[str, Any]) -> str:
    """As docs/exports.md computes it."""
    said = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"\0" + bytes.fromhex(salt) + hashlib.sha256(said).digest()).hexdigest()


def raw_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a raw file that are objects in JSON."""
    rows = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def test_rows_of_a_finished_project_are_found_by_their_raw_text(tmp_path: Path) -> None:
    """A project that an older version trained: sft, then dpo, with an erased row that was left out of both."""
    root = unpack(FINISHED, tmp_path / "shop")
    arguments = ["export", "dpo", str(tmp_path / "out"), "--project", str(root)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out"
    bom = document(folder, "bom.cdx.json")
    assert schema_error(bom) is None
    sha256sum(folder, "SHA256SUMS")
    text = (folder / "training_rows.txt").read_text(encoding="utf-8")
    salt, listed = text.split("# salt: ")[1].split("\n")[0], set(text.splitlines())
    questions = [
        {"instruction": row["instruction"], "input": "", "output": row["output"], "system": None, "history": None}
        for row in raw_rows(root / "data/raw/alpaca/support_01.jsonl")
        if {"instruction", "output"} <= row.keys()
    ]
    pairs = [
        {
            "prompt_messages": [{"role": "user", "content": row["prompt"]}],
            **{key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")},
        }
        for row in raw_rows(root / "data/raw/preferences/pairs.jsonl")
    ]
    found = [[leaf_of(salt, row) in listed for row in rows] for rows in (questions, pairs)]
    assert all(0.6 < sum(hits) / len(hits) <= 1 for hits in found) and not all(found[0]), "test rows are not in it"
    notes = bom["metadata"]["component"]["pedigree"]["notes"]
    assert notes == "sft with qlora on 72 rows, then dpo with qlora on 44 rows; the adapter alone"
