"""The current code opens, verifies and plans a finished store of an older version.

ft_pipeline_tests/fixtures/make_store.py made the store with the code of a73cd80.
"""

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.definitions import defs
from ft_pipeline.execution.metadata import clean_metadata, metadata_of_page
from ft_pipeline.step import STEPS
from ft_pipeline.store.artifact_redaction import read_redactions
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.manifest import describe_files, fingerprint_of
from ft_pipeline_tests.end_to_end.project import current, ft_here_json
from ft_pipeline_tests.fixtures.packing import unpack
from ft_pipeline_tests.store.old_store import (
    LIST,
    Rerun,
    advice,
    compared_again,
    disagreements,
    own_spec,
    read_list,
    reruns,
)

pytestmark = pytest.mark.slow

COMMIT = "a73cd80"
PACKED = Path(__file__).parents[1] / "fixtures" / f"store_{COMMIT}.tar.zst"
MOST_BYTES = 5_000_000
UI_PAGE = Path(__file__).parents[2] / "docs" / "ui.md"
"""The page that says what each metadata entry is for."""
EXPERIMENTS = ["dpo", "full", "lora", "qlora"]
FIRST_ENTRIES = {
    **dict.fromkeys(("raw_alpaca", "raw_sharegpt", "raw_text", "raw_preferences", "raw_unlabelled"), "listing"),
    **dict.fromkeys(("alpaca", "sharegpt", "text", "preferences", "unlabelled", "conversations"), "preview"),
    "quarantine": "reasons",
    "teacher_answers": "answers_shown",
    "distilled": "samples",
    "experiment": "changed_settings",
    "base_model": "source",
    "training_data": "example",
    "memory_estimate": "fits",
    "adapter": "loss_curve",
    "merged_model": "equivalence",
    "prompt_baseline": "scores",
    "scores": "scores",
    "comparison": "leads",
    "recommendation": "decision",
    "champion": "released",
    "model_card": "summary",
    "report": "how",
}
"""What the page of each asset opens with."""
COMMANDS = {
    "audit": ("audit", "--verify"),
    "upgrade": ("upgrade", "--plan"),
    "champion": ("champion",),
    "compare": ("compare",),
    "recommend": ("recommend",),
    "trained": ("sql", "select distinct experiment from training_rows order by experiment"),
    "inspect": ("inspect", "--experiment", "qlora", "-n", "1000"),
    "inspect text": ("inspect", "text"),
    "excluded": ("sql", "select file, row from quarantine where code = 'excluded'"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, unpacked."""
    return unpack(PACKED, tmp_path_factory.mktemp("old") / "shop")


@pytest.fixture(scope="module")
def store(root: Path) -> ArtifactStore:
    return ArtifactStore(root / "data" / "store")


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with one byte of a merged model flipped and two settings changed."""
    root = unpack(PACKED, tmp_path_factory.mktemp("spoiled") / "shop")
    weights = current(root, "merged_model", "lora").path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for name, before, after in (
        ("experiments/qlora.yaml", "eval_steps: 4", "eval_steps: 5"),
        ("project.yaml", "max_test_rows: 8", "max_test_rows: 7"),
    ):
        text = (root / name).read_text(encoding="utf-8")
        assert before in text
        (root / name).write_text(text.replace(before, after), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def results(root: Path, spoiled: Path) -> dict[str, tuple[int, Any]]:
    """(exit code, document) of each `ft` command."""
    commands = {**COMMANDS, "spoiled": ("audit", "lora", "--verify", "--project", str(spoiled))}
    return dict(zip(commands, ft_here_json(root, *commands.values()), strict=True))


@pytest.fixture(scope="module")
def planned_reruns(root: Path) -> dict[str, Rerun]:
    return reruns(root)


@pytest.fixture(scope="module")
def spoiled_reruns(spoiled: Path) -> dict[str, Rerun]:
    return reruns(spoiled)


def test_the_fixture_is_small_and_made_by_that_commit(store: ArtifactStore) -> None:
    assert PACKED.stat().st_size <= MOST_BYTES
    code = {(artifact.manifest["code"]["commit"][:7], artifact.manifest["code"]["dirty"]) for artifact in store.all()}
    assert code == {(COMMIT, False)}


def test_every_artifact_opens_with_its_recorded_fingerprint(store: ArtifactStore) -> None:
    folders = sorted(store.artifacts.glob("*/*/*"))
    artifacts = [store.verify(folder, thorough=True) for folder in folders]
    assert len(artifacts) == len(store.all()) > 60
    for artifact in artifacts:
        if not artifact.redacted:
            assert fingerprint_of(artifact.kind, describe_files(artifact.path)) == artifact.fingerprint, artifact.path
    for pointer in AssetPointers(store.root).all():
        opened = store.open(pointer.kind, pointer.fingerprint, manifest_sha256=pointer.manifest_sha256)
        assert opened is not None and opened.manifest_sha256 == pointer.manifest_sha256, pointer


def test_the_audit_verifies_the_whole_store(store: ArtifactStore, results: dict[str, tuple[int, Any]]) -> None:
    code, document = results["audit"]
    assert (code, document["verified"], document["problems"]) == (0, True, [])
    assert {node["status"] for node in document["nodes"]} == {"verified"}
    counted = document["counted"]
    assert (counted["artifacts"], counted["redactions"]) == (len(store.all()), 1)
    assert counted["champion_records"] == len(list((store.root / "champion").glob("*.json")))


def test_the_audit_names_the_changed_file(results: dict[str, tuple[int, Any]]) -> None:
    code, document = results["spoiled"]
    assert (code, document["verified"]) == (1, False)
    assert len(document["problems"]) == 1 and "model.safetensors was changed" in document["problems"][0]


def test_the_champion_is_listed(store: ArtifactStore, results: dict[str, tuple[int, Any]]) -> None:
    code, record = results["champion"]
    assert (code, record["name"], record["kind"]) == (0, "qlora/merged", "merged")
    assert record["fingerprints"]["merged_model"] == current(store.root.parents[1], "merged_model", "qlora").fingerprint


def test_documents_and_tables_can_be_read(results: dict[str, tuple[int, Any]]) -> None:
    assert {results[name][0] for name in COMMANDS} == {0}
    rows = results["compare"][1]["rows"]
    assert {row["experiment"] for row in rows} >= set(EXPERIMENTS)
    assert {row["kind"] for row in rows} >= {"base", "prompt", "teacher", "adapter", "merged"}
    assert results["recommend"][1]["reasons"]
    assert results["trained"][1]["rows"] == [[name] for name in EXPERIMENTS]


def test_the_redaction_is_recorded(store: ArtifactStore, results: dict[str, tuple[int, Any]]) -> None:
    (record,) = read_redactions(store.root)
    assert [[row["file"], row["row"]] for row in record.rows] == results["excluded"][1]["rows"]
    named = {(entry["kind"], entry["fingerprint"]) for entry in record.artifacts}
    assert named == {artifact.reference for artifact in store.all() if artifact.redacted} != set()
    trained_models = {model["fingerprint"] for model in record.models if model["how"] == "trained on it"}
    assert trained_models, "the row trained models"
    assert not trained_models & {pointer.fingerprint for pointer in AssetPointers(store.root).all()}, (
        "they were trained again"
    )


def test_rows_to_look_at_are_listed_without_the_erased_one(results: dict[str, tuple[int, Any]]) -> None:
    document = results["inspect"][1]
    assert document["languages"]["counts"]["en"] > 0 and len(document["longest"]) == document["rows"]
    assert document["held_out"]["highest_loss"] and document["held_out"]["regressions"] is not None
    listed = [*document["longest"], *document["held_out"]["highest_loss"]]
    erased = {(file, row) for file, row in results["excluded"][1]["rows"]}
    assert erased and not erased & {(row["file"], row["row"]) for row in listed}
    assert results["inspect text"][1]["longest"] and results["inspect text"][1]["held_out"] is None


def test_the_pages_of_its_assets_can_be_shown(
    root: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_PROJECT", str(root))
    defs()
    shown = {}
    for pointer in AssetPointers(store.root).all():
        page = STEPS[pointer.asset].page
        artifact = store.require(pointer.kind, pointer.fingerprint)
        shown[pointer.asset] = clean_metadata(metadata_of_page(page(artifact))) if page else {}
    assert "languages" not in shown["alpaca"], "its summary has none"
    assert {asset: next(iter(metadata), None) for asset, metadata in shown.items()} == FIRST_ENTRIES
    described = UI_PAGE.read_text(encoding="utf-8")
    names = {name for metadata in shown.values() for name in metadata}
    assert {name for name in names if f"`{name.removeprefix('all_')}`" not in described} == set()
    look_at = shown["conversations"]["all_rows_to_look_at"].data
    assert {row["list"] for row in look_at} >= {"longest"} and look_at[0]["origin"]
    assert shown["scores"]["all_highest_loss"].data[0]["origin"] != "?"


def test_its_model_of_preferences_is_not_compared_by_likelihood(root: Path) -> None:
    found = compared_again(root)
    assert {row.experiment for row in found.rows if row.learned_from} == {"dpo"}
    dpo, lora, base = (found.row(name) for name in ("dpo/merged", "lora/merged", "base"))
    assert dpo is not None and lora is not None and base is not None
    assert found.is_silent(dpo, base) and not found.is_silent(lora, base)
    assert found.own_targets == [], "its adapters have no held-out values"


def test_only_listed_steps_run_again(planned_reruns: dict[str, Rerun]) -> None:
    messages = disagreements(planned_reruns, read_list(LIST.read_text(encoding="utf-8"), EXPERIMENTS))
    assert not messages, "\n".join([*messages, advice(LIST)])


@pytest.mark.parametrize("experiment", ["qlora", "dpo"])
def test_an_adapter_whose_spec_names_trl_is_up_to_date(root: Path, store: ArtifactStore, experiment: str) -> None:
    """trl was in the specs of adapters, although nothing imports it."""
    adapter, spec = current(root, "adapter", experiment), own_spec(root, "adapter", experiment)
    assert "trl" in adapter.spec["versions"] and "trl" not in spec.versions
    found = store.find(spec)
    assert adapter.is_of(spec) and found is not None and found.path == adapter.path


def test_the_plan_distinguishes_changed_steps_from_steps_that_follow(
    spoiled_reruns: dict[str, Rerun], planned_reruns: dict[str, Rerun]
) -> None:
    assert spoiled_reruns["merged_model [lora]"] == Rerun("changed", "damaged or missing from the store")
    assert spoiled_reruns["experiment [qlora]"].why == "settings changed: training.eval_steps 4 → 5"
    assert spoiled_reruns["base_model [qlora]"] == planned_reruns.get(
        "base_model [qlora]", Rerun("follows", "experiment runs first")
    )
    # The plan itself says only that the experiment runs first.
    assert spoiled_reruns["scores [qlora]"].why.startswith("settings changed: evaluation.max_test_rows 8 → 7")
    assert spoiled_reruns["scores [qlora]"].section == "changed"
    assert set(planned_reruns) < set(spoiled_reruns)


def test_a_larger_test_share_trains_every_experiment_again(tmp_path: Path) -> None:
    root = unpack(PACKED, tmp_path / "shop")
    settings = (root / "project.yaml").read_text(encoding="utf-8")
    assert "test_share: 0.15" in settings
    (root / "project.yaml").write_text(settings.replace("test_share: 0.15", "test_share: 0.5"), encoding="utf-8")
    planned = reruns(root)
    assert planned["conversations"].section == "changed" and "settings changed: data" in planned["conversations"].why
    assert planned["training_data [qlora]"] == Rerun("follows", "conversations runs first")
    assert planned.keys() >= {f"adapter [{name}]" for name in EXPERIMENTS}


def test_plan_and_list_are_compared_in_both_directions(spoiled_reruns: dict[str, Rerun]) -> None:
    listed = {name: rerun.section for name, rerun in spoiled_reruns.items()}
    name = "merged_model [lora]"
    assert disagreements(spoiled_reruns, listed) == []
    (missing,) = disagreements(spoiled_reruns, {entry: section for entry, section in listed.items() if entry != name})
    assert missing.startswith(f"{name} would run again: damaged") and missing.endswith("not listed under `changed`.")
    (misplaced,) = disagreements(spoiled_reruns, {**listed, name: "follows"})
    assert misplaced.startswith(f"{name} is listed under `follows` and belongs under `changed`")
    (obsolete,) = disagreements({entry: rerun for entry, rerun in spoiled_reruns.items() if entry != name}, listed)
    assert obsolete == f"{name} is listed under `changed` and would not run again."


def test_an_entry_names_one_step_or_several() -> None:
    text = """
changed:
  adapter [lora]: The default changed.
  comparison, report: They count rows.
follows:
  merged_model, scores [dpo, lora]: Another adapter is merged.
  training_data [*]: Another base model is read.
"""
    follows = ("merged_model [dpo]", "merged_model [lora]", "scores [dpo]", "scores [lora]")
    assert read_list(text, ["dpo", "lora"]) == {
        **dict.fromkeys(("adapter [lora]", "comparison", "report"), "changed"),
        **dict.fromkeys((*follows, "training_data [dpo]", "training_data [lora]"), "follows"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("changed: {'adapter [lora]': }\nfollows: {}", "has no reason"),
        ("changed: {'adapter [lora]': new}\nfollows: {}", "has no reason"),
        ("changed: {'adapter [*]': It is new., 'adapter [lora]': It is new.}\nfollows: {}", "is listed twice"),
        ("changed: {}\nfollows: {}\nalso: {}", "Write changed and follows"),
    ],
)
def test_an_invalid_list_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_list(text, ["dpo", "lora"])


def test_the_plan_of_an_upgrade_names_the_versions_that_changed_and_the_time_it_took(
    store: ArtifactStore, results: dict[str, tuple[int, Any]]
) -> None:
    _, document = results["upgrade"]
    steps = {(step["asset"], step["experiment"]): step for step in document["steps"]}
    scores = current(store.root.parents[1], "scores", "qlora")
    assert steps["scores", "qlora"]["because"] == "version"
    assert (
        f"code version {scores.spec['versions']['code']} → {STEPS['scores'].code_version}"
        in (steps["scores", "qlora"]["reason"])
    )
    assert steps["scores", "qlora"]["seconds"] == scores.manifest["run"]["seconds"] > 1
    assert steps["raw_alpaca", None]["because"] == "none"
    assert steps["decision", None] | {"reason": ""} == {
        "asset": "decision",
        "experiment": None,
        "because": "other",
        "reason": "",
        "seconds": None,
    }
    assert steps["adapter", "qlora"]["because"] in ("version", "follows")
    assert document["made_by"] == ["0.1.0"]
