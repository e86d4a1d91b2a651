"""The UI shows the raw fields of each column, and the manifest and inputs of each asset."""

import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from ft_pipeline import scaffold
from ft_pipeline.distillation.answer_table import ANSWERS
from ft_pipeline.distillation.distill import DISTILLED_TABLE
from ft_pipeline.events import StepEvent, listening
from ft_pipeline.execution.partitions import add_partitions
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.settings.raw_formats import TARGET_COLUMNS
from ft_pipeline.step import BuildContext
from ft_pipeline.steps.shared import column_lineage as lineage
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.manifest import FileEntry, fingerprint_of
from ft_pipeline.tables.conversations import SCHEMA
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.sidecar import parse_sidecar
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.token_table import COLUMNS as TOKEN_COLUMNS
from ft_pipeline.training.token_table import OF_EVERY_ROW, OF_PAIRS, token_table
from ft_pipeline_tests.graph import ASSETS

SFT = ("conversations", "base_model", "distilled", "text")
TABLES = {
    **{name: lineage.table_lineage(name, {}) for name in FORMATS},
    "conversations": lineage.conversations_lineage(),
    "teacher_answers": lineage.answers_lineage(),
    "distilled": lineage.distilled_lineage(),
    "training_data": OBJECTIVES["sft"].lineage_from(SFT),
}


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The steps of a new project, which is open."""
    root = scaffold.create(tmp_path / "shop", example=True)
    monkeypatch.setenv("FT_PROJECT", str(root))
    from ft_pipeline.step import STEPS
    from ft_pipeline_tests.graph import of_all_steps

    of_all_steps()
    return STEPS


def raw_fields(asset: str, column: str) -> Iterator[str]:
    """Yield the raw fields that a column is made from."""
    for upstream, name in TABLES[asset][column]:
        if upstream.startswith("raw_"):
            yield f"{upstream}.{name}"
        else:
            yield from raw_fields(upstream, name)


@pytest.mark.parametrize(
    ("asset", "schema"),
    [
        ("conversations", SCHEMA),
        ("teacher_answers", ANSWERS),
        ("distilled", DISTILLED_TABLE.arrow_schema),
        ("training_data", token_table(OF_EVERY_ROW).arrow_schema),
    ],
)
def test_lineage_names_only_columns_of_the_table(asset: str, schema: pa.Schema) -> None:
    assert set(TABLES[asset]) <= set(schema.names)


@pytest.mark.parametrize("name", FORMATS)
def test_every_mapping_of_a_sidecar_has_a_lineage(name: str) -> None:
    """Each name that a column may have in a file, such as that of another field, is mapped to each field."""
    names_in_files = {"theirs", *TARGET_COLUMNS}.union(*(row_format.keys for row_format in FORMATS.values()))
    pairs = itertools.product(sorted(names_in_files), sorted(TARGET_COLUMNS))
    of_one_file = [parse_sidecar({"columns": {source: target}}).columns for source, target in pairs]
    of_several_files = [dict.fromkeys(names_in_files, target) for target in TARGET_COLUMNS]
    plain = lineage.table_lineage(name, {})
    for columns in [*of_one_file, *of_several_files]:
        sources = lineage.table_lineage(name, columns)
        assert sources.keys() == plain.keys()
        for column in plain.keys() - {"id"}:
            fields = {field for _, field in plain[column]}
            mapped = {source for source, target in columns.items() if target in fields}
            assert {field for _, field in sources[column]} == fields | mapped, (columns, column)


def test_a_training_label_leads_back_to_raw_fields() -> None:
    fields = set(raw_fields("training_data", "labels"))
    assert {"raw_alpaca.output", "raw_sharegpt.conversations", "raw_unlabelled.instruction", "raw_text.text"} <= fields
    assert not any(field.startswith("raw_preferences") for field in fields)


@pytest.mark.parametrize(
    ("objective", "labels", "columns"),
    [
        ("sft", {"conversations.messages"}, [*OF_EVERY_ROW]),
        ("cpt", {"text.text"}, [*OF_EVERY_ROW]),
        ("dpo", {"preferences.chosen"}, [*OF_EVERY_ROW, *OF_PAIRS]),
    ],
)
def test_each_objective_has_its_own_lineage(objective: str, labels: set[str], columns: list[str]) -> None:
    inputs = {"sft": ("conversations",), "cpt": ("conversations", "text"), "dpo": ("conversations", "preferences")}
    sources = OBJECTIVES[objective].lineage_from(inputs[objective])
    assert {".".join(source) for source in sources["labels"]} == labels
    assert set(sources) == set(columns) - {"source"}
    assert set(columns) <= set(TOKEN_COLUMNS)


def test_the_ui_shows_the_origin_of_a_table(steps: dict, tmp_path: Path) -> None:
    """Materializes a table with manifest, inputs, content hash and lineage, including a column that a sidecar maps."""
    raw = tmp_path / "shop" / "data" / "raw" / "alpaca"
    rows = [{"question": f"Is order {n * 37} on its way to me?", "output": f"Order {n * 37} is."} for n in range(3)]
    (raw / "foreign.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (raw / "foreign.yaml").write_text("columns: {question: instruction}\n", encoding="utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [*ASSETS.values()],
            instance=instance,
            resources=RESOURCES,
            selection=["raw_alpaca", "alpaca"],
        )
        assert result.success
        (event,) = result.asset_materializations_for_node("alpaca")
    metadata = {key: value.value for key, value in event.metadata.items()}
    metadata |= {key: metadata[key].rstrip() for key in ("manifest", "manifest_sha256", "fingerprint")}
    manifest = json.loads(Path(metadata["manifest"]).read_bytes())
    assert sha256_of_file(Path(metadata["manifest"])) == metadata["manifest_sha256"]
    content = fingerprint_of("alpaca", [FileEntry(**entry) for entry in manifest["files"]])
    assert (event.tags or {})["dagster/data_version"] == content == metadata["fingerprint"]
    assert "[raw_alpaca](/assets/raw_alpaca)" in metadata["inputs"]
    assert manifest["spec"]["inputs"]["raw"]["fingerprint"][:12] in metadata["inputs"]
    columns = metadata["dagster/column_lineage"].deps_by_column
    sources = {(dep.asset_key.to_user_string(), dep.column_name) for dep in columns["instruction"]}
    assert sources == {("raw_alpaca", "instruction"), ("raw_alpaca", "question")}


def materialize_pairs(steps: dict, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """Materialize the table of preference pairs."""
    assets = [*ASSETS.values()]
    selection = ["raw_preferences", "preferences"]
    return dg.materialize(assets, instance=instance, resources=RESOURCES, selection=selection, raise_on_error=False)


def test_a_page_that_cannot_be_shown_fails_no_finished_table(steps: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(artifact: Artifact) -> dict:
        raise KeyError("languages")

    monkeypatch.setitem(steps, "preferences", replace(steps["preferences"], page=show))
    notes: list[StepEvent] = []
    with dg.DagsterInstance.ephemeral() as instance, listening(StepEvent, notes.append):
        result = materialize_pairs(steps, instance)
        assert result.success
        (event,) = result.asset_materializations_for_node("preferences")
        warnings = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.level == logging.WARNING]
    assert event.metadata["not_recorded"].value == "KeyError: 'languages'"
    assert event.metadata["manifest_sha256"].value and event.metadata["inputs"].value
    assert [line for line in warnings if "KeyError: 'languages'. The result is complete" in line]
    assert [(note.state, "not recorded" in note.message) for note in notes if note.asset == "preferences"] == [
        *(("started", False), ("notes", True), ("built", False))
    ]
    assert all(check.passed for check in result.get_asset_check_evaluations())


def test_an_error_of_the_work_itself_fails_the_table(steps: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(context: BuildContext) -> dict:
        raise KeyError("languages")

    monkeypatch.setitem(steps, "preferences", replace(steps["preferences"], build=build))
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize_pairs(steps, instance)
    assert not result.success and not result.asset_materializations_for_node("preferences")


def test_shared_artifacts_name_no_experiment(steps: dict) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        add_partitions(instance, ["qlora"])
        result = dg.materialize(
            [*ASSETS.values()],
            instance=instance,
            resources=RESOURCES,
            selection=["raw_text", "experiment"],
            partition_key="qlora",
        )
    experiments = {}
    for name in ("raw_text", "experiment"):
        (event,) = result.asset_materializations_for_node(name)
        manifest = json.loads(Path(str(event.metadata["manifest"].value).rstrip()).read_bytes())
        experiments[name] = manifest["run"]["experiment"]
    assert experiments == {"raw_text": None, "experiment": "qlora"}


def test_an_input_of_an_experiment_links_to_its_partition(tmp_path: Path) -> None:
    from ft_pipeline.execution.metadata import artifact_metadata
    from ft_pipeline.lineage.artifact_index import ArtifactIndex
    from ft_pipeline_tests.audit.shop import Shop

    shop = Shop(tmp_path / "shop")
    shop.write_project()
    artifacts = shop.materialize()
    assets = {"training_data": True, "base_model": True, "conversations": False}
    index = ArtifactIndex(shop.store.root)
    metadata = artifact_metadata(artifacts["adapter"], index, assets, "qlora")
    assert "[training_data](/assets/training_data?partition=qlora)" in metadata["inputs"].value
    folder = artifacts["base_model"].path.relative_to(shop.store.root)
    assert f"{folder}/manifest.json" in {record.get("manifest") for record in metadata["all_inputs"].data[:-1]}
    shown = artifact_metadata(artifacts["training_data"], index, assets, "qlora")["inputs"].value
    assert "[conversations](/assets/conversations) `" in shown
    assert "none" in artifact_metadata(artifacts["raw_alpaca"], index, assets, None)["inputs"].value
