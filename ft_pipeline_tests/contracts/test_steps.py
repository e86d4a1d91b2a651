"""What every step promises: what it declares, what is hashed, and its page, for old artifacts and for new ones."""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_pipeline.definitions import defs
from ft_pipeline.errors import UserError
from ft_pipeline.execution import metadata
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.project import Project
from ft_pipeline.settings.project import DagsterSettings
from ft_pipeline.step import STEPS, MissingInput, SpecContext, planned_spec
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.fixtures.packing import unpack
from ft_pipeline_tests.graph import ASSETS
from ft_pipeline_tests.store.test_old_store import PACKED, UI_PAGE
from ft_pipeline_tests.tables.helpers import write_jsonl

defs()
TABLES = [*(f"raw_{name}" for name in FORMATS), *FORMATS, "conversations", "quarantine", "ratings"]
"""Steps that are run here on a few rows."""
NOWHERE = {"judgements", "decision", "gguf", "gguf_scores", "searched_prompt", "worth"}
"""Steps that need a model, and that the old store does not have: their page is tested with them."""
WITHOUT_INPUTS = {"comparison", "recommendation", "champion", "model_card", "report", "gguf_scores"}
"""Steps whose inputs the old store does not have."""


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two rows of each format, whose tables are made."""
    root = tmp_path_factory.mktemp("new")
    (root / "project.yaml").write_text("name: shop\n", encoding="utf-8")
    (root / "experiments").mkdir()
    for name, rows in GOOD.items():
        (root / "data" / "raw" / name).mkdir(parents=True)
        write_jsonl(root / "data" / "raw" / name / "a.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("FT_PROJECT", str(root))
        assets = [*ASSETS.values()]
        dg.materialize(assets, instance=instance, resources=RESOURCES, selection=TABLES, raise_on_error=False)
    return root


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project of an older version."""
    return unpack(PACKED, tmp_path_factory.mktemp("old") / "shop")


@pytest.fixture(scope="module")
def pages(new: Path, old: Path) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Asset → what its pages show, before it is made to fit, with the schema of its columns."""
    found = defaultdict(list)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "dagster_settings", lambda: DagsterSettings(columns=True))
        for root in (old, new):
            patch.setenv("FT_PROJECT", str(root))
            store = ArtifactStore(root / "data" / "store")
            for pointer in AssetPointers(store.root).all():
                if page := STEPS[pointer.asset].page:
                    found[pointer.asset].append(
                        metadata.metadata_of_page(page(store.require(pointer.kind, pointer.fingerprint)))
                    )
        yield found


@pytest.mark.parametrize("name", STEPS)
def test_it_says_what_it_is(name: str) -> None:
    step, asset = STEPS[name], ASSETS[name]
    assert step.code_version.isdecimal() and step.code_version == asset.code_versions_by_key[asset.key]
    assert set(step.deps) <= set(STEPS) - {name}
    description = asset.descriptions_by_key[asset.key]
    assert "**Look here**" in description and "\n" not in description
    checks = [check.name for check in step.checks]
    assert len(set(checks)) == len(checks) and all(check.description.endswith(".") for check in step.checks)
    assert {spec.name for spec in asset.check_specs} == {*checks}


def specs_of(name: str, root: Path) -> Iterator[Spec]:
    """The specs that a step has now in a project."""
    store = ArtifactStore(root / "data" / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_PROJECT", str(root))
        patch.chdir(root)
        project = Project(root)
        for experiment in project.experiment_names() if STEPS[name].per_experiment else [None]:
            with contextlib.suppress(UserError, MissingInput):
                yield planned_spec(STEPS[name], SpecContext(project, store, experiment))


@pytest.mark.parametrize("name", STEPS)
def test_its_spec_is_plain_json_without_a_path_of_this_machine(name: str, old: Path, new: Path) -> None:
    specs = [(root, spec) for root in (old, new) for spec in specs_of(name, root)]
    if name in WITHOUT_INPUTS:
        pytest.skip("its inputs are not here")
    assert specs, "add it to WITHOUT_INPUTS in contracts/test_steps.py, or its inputs to TABLES"
    for root, spec in specs:
        text = json.dumps(spec.to_json(), allow_nan=False)
        written = json.loads(text)
        inputs = {key: (entry["kind"], entry["fingerprint"]) for key, entry in written.pop("inputs").items()}
        again = Spec(**written, inputs=inputs)
        assert again == spec and again.hash == spec.hash
        assert spec.versions["code"] == STEPS[name].code_version and str(root) not in text


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.page])
def test_its_page_can_be_shown_and_stored(name: str, pages: dict[str, list[dict[str, Any]]]) -> None:
    if name in NOWHERE:
        pytest.skip("it needs a trained model of the present version")
    assert pages[name], "add it to TABLES or NOWHERE in contracts/test_steps.py"
    described = UI_PAGE.read_text(encoding="utf-8")
    for page in pages[name]:
        shown = metadata.clean_metadata(page)
        event = dg.AssetMaterialization(name, metadata=shown)
        stored = dg.deserialize_value(dg.serialize_value(event), dg.AssetMaterialization)
        assert shown and stored.metadata == event.metadata
        assert {key for key in shown if f"`{key.removeprefix('all_')}`" not in described} == set()


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.page])
def test_each_column_of_its_lineage_is_in_its_schema_and_made_from_columns_of_its_inputs(
    name: str, pages: dict[str, list[dict[str, Any]]]
) -> None:
    for page in pages[name]:
        if lineage := page.get("dagster/column_lineage"):
            assert set(lineage.deps_by_column) <= columns_of(page)
            for column, sources in lineage.deps_by_column.items():
                assert sources, column
                for source in sources:
                    upstream = source.asset_key.to_user_string()
                    assert upstream in STEPS[name].deps, f"{column} names {upstream}, which is no input"
                    schema = set().union(*(columns_of(other) for other in pages[upstream]))
                    assert source.column_name in schema, f"{column} names {upstream}.{source.column_name}"


def columns_of(page: dict[str, Any]) -> set[str]:
    """The columns of the table that a page describes."""
    schema = page.get("dagster/column_schema")
    return {column.name for column in schema.columns} if schema else set()
