"""The current code reads a finished project of 9bbd981e: several experiments, two champions, ratings, a redaction.

ft_pipeline_tests/fixtures/make_world.py made it, and says what it contains. Never make it again with newer code.
"""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide import plots
from ft_pipeline.definitions import defs
from ft_pipeline.execution.metadata import clean_metadata, metadata_of_page
from ft_pipeline.step import STEPS
from ft_pipeline.store.artifact_redaction import read_redactions
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline_tests.end_to_end.project import PER_EXPERIMENT, SHARED, current, ft_here_json, ft_json
from ft_pipeline_tests.fixtures.packing import unpack_signed
from ft_pipeline_tests.store.old_store import advice, disagreements, read_list, reruns

pytestmark = pytest.mark.slow

COMMIT = "9bbd981e"
PACKED = Path(__file__).parents[1] / "fixtures" / f"world_{COMMIT}.tar.zst"
LIST = Path(__file__).with_name(f"runs_again_{COMMIT}.yaml")
MOST_BYTES = 2_000_000
EXPERIMENTS = ["cpt", "dpo", "lora", "qlora"]
NOTHING_TO_SHOW = {"judgements", "searched_prompt", "worth"}
"""Without a judge the one is empty; the other is newer than the store."""
NO_PICTURE = b"\x89PNG\r\n\x1a\n"
COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status",),
    "experiments": ("experiments",),
    "compare": ("compare",),
    "recommend": ("recommend",),
    "champion": ("champion",),
    "exposures": ("exposures",),
    "report": ("report",),
    "rate": ("rate",),
    "inbox": ("inbox",),
    "upgrade": ("upgrade", "--plan"),
    "gc": ("gc", "--dry-run"),
    "plan": ("plan", "lora"),
    "memory": ("memory", "-e", "lora"),
    "audit": ("audit", "--verify", "--anchor", "../anchor"),
    "rows": ("audit", "qlora", "--rows"),
    "left out": ("audit", "qlora", "--left-out"),
    "inspect": ("inspect", "--experiment", "qlora"),
    "accepted": ("sql", "select messages[1].content from traces"),
    "ratings": ("sql", "select rater, verdict, count(*) from ratings group by all order by all"),
    "trained": ("sql", "select distinct experiment from training_rows order by experiment"),
    "excluded": ("sql", "select file, row from quarantine where code = 'excluded'"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, unpacked."""
    return unpack_signed(PACKED, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def store(root: Path) -> ArtifactStore:
    return ArtifactStore(root / "data" / "store")


@pytest.fixture(scope="module")
def results(root: Path) -> dict[str, Any]:
    """The document of each `ft` command."""
    done = dict(zip(COMMANDS, ft_here_json(root, *COMMANDS.values()), strict=True))
    assert {name: code for name, (code, _) in done.items() if code} == {}
    return {name: document for name, (_, document) in done.items()}


def test_it_is_small_and_made_by_that_commit(store: ArtifactStore) -> None:
    assert PACKED.stat().st_size <= MOST_BYTES
    code = {(artifact.manifest["code"]["commit"][:8], artifact.manifest["code"]["dirty"]) for artifact in store.all()}
    assert code == {(COMMIT, False)}


def test_it_verifies_up_to_its_anchor(store: ArtifactStore, results: dict[str, Any]) -> None:
    audit = results["audit"]
    assert audit["problems"] == [] and any(note.startswith("The anchor ../anchor has ") for note in audit["notes"])
    assert {name.split()[0] for name in audit["redacted"]} >= {"adapter[qlora]", "raw_alpaca"}, "of the champion"
    counted = audit["counted"]
    assert (counted["artifacts"], counted["redactions"]) == (len(store.all()), 1)
    assert counted["champion_records"] == 3 and counted["inbox_records"] == 2


def test_every_experiment_is_compared(results: dict[str, Any]) -> None:
    rows = {row["name"]: row["kind"] for row in results["compare"]["rows"]}
    assert rows.keys() >= {f"{name}/merged" for name in EXPERIMENTS} | {"base", "few_shot", "lora/gguf-q8_0"}
    assert all("capitals/acc" in row["scores"] for row in results["compare"]["rows"] if row["kind"] == "merged")
    assert {row["name"] for row in results["experiments"]["experiments"]} == set(EXPERIMENTS)
    assert results["trained"]["rows"] == [[name] for name in EXPERIMENTS]
    assert results["recommend"]["reasons"] and results["exposures"]["entries"]


def test_the_champion_was_rolled_back_to(results: dict[str, Any], root: Path) -> None:
    champion = results["champion"]
    assert (champion["sequence"], champion["reason"]) == (3, "rollback from lora/merged (record 2): It did not.")
    assert (champion["name"], champion["kind"]) == ("qlora/merged", "merged")
    trained_again = current(root, "merged_model", "qlora")
    assert champion["fingerprints"]["merged_model"] != trained_again.fingerprint, "it learned from the erased row"


def test_a_person_can_still_move_the_champion(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pictures are drawn in the test of the pages."""
    monkeypatch.setattr(plots, "panels", lambda *_: NO_PICTURE)
    copied = Path(shutil.copytree(root, tmp_path / "shop"))
    promote = ("promote", "lora", "--force", "--reason", "It was better.")
    verify = ("audit", "--verify", "--anchor", str(root.parent / "anchor"))
    (_, moved), (_, audit) = ft_here_json(copied, promote, verify)
    assert (moved["sequence"], moved["name"], moved["previous"]) == (4, "lora/merged", "qlora/merged")
    assert audit["problems"] == [] and audit["counted"]["champion_records"] == 4


def test_the_verdicts_of_two_people_are_read(results: dict[str, Any]) -> None:
    assert {rater for rater, _, _ in results["ratings"]["rows"]} == {"ann", "ben"}


def test_the_inbox_knows_what_was_decided(results: dict[str, Any]) -> None:
    assert [proposal["id"] for proposal in results["inbox"]["proposals"]] == ["chatcmpl-4"]
    assert results["accepted"]["rows"] == [["Can I return a lamp?"]]


def test_the_redaction_is_recorded(store: ArtifactStore, results: dict[str, Any]) -> None:
    (record,) = read_redactions(store.root)
    assert [[row["file"], row["row"]] for row in record.rows] == results["excluded"]["rows"]
    assert {artifact.reference for artifact in store.all() if artifact.redacted} == {
        (entry["kind"], entry["fingerprint"]) for entry in record.artifacts
    }
    erased = {(row["file"], row["row"]) for row in record.rows}
    assert erased and not erased & {(row["file"], row["row"]) for row in results["rows"]["rows"]}
    assert erased <= {(row["file"], row["row"]) for row in results["left out"]["rows"]}


def test_the_pages_of_its_assets_can_be_shown(
    root: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_PROJECT", str(root))
    defs()
    shown = set()
    for pointer in AssetPointers(store.root).all():
        page, artifact = STEPS[pointer.asset].page, store.require(pointer.kind, pointer.fingerprint)
        if page and clean_metadata(metadata_of_page(page(artifact))):
            shown.add((pointer.asset, pointer.partition))
    named = {asset for asset, _ in shown}
    assert named >= (SHARED | PER_EXPERIMENT) - NOTHING_TO_SHOW
    assert {name for asset, name in shown if asset in ("gguf", "gguf_scores")} == {"lora"}
    assert pq.read_table(current(root, "gguf_scores", "lora").path / "samples.parquet").num_rows
    assert Path(current(root, "report").path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_only_listed_steps_run_again(root: Path) -> None:
    messages = disagreements(reruns(root), read_list(LIST.read_text(encoding="utf-8"), EXPERIMENTS))
    assert not messages, "\n".join([*messages, advice(LIST)])


@pytest.mark.long
def test_an_upgrade_trains_again_what_learned_from_rows_that_moved(root: Path, tmp_path: Path) -> None:
    """Rows that stay become the same tokens, and the next run has nothing to do."""
    copied = Path(shutil.copytree(root, tmp_path / "shop"))
    before = {name: tokens_by_row(copied, name) for name in EXPERIMENTS}
    adapters = {name: current(copied, "adapter", name).fingerprint for name in EXPERIMENTS}
    ft_json(copied, "run")
    after = {name: tokens_by_row(copied, name) for name in EXPERIMENTS}
    for name in ("dpo", "lora", "qlora"):  # the ids of texts are those of pieces, which begin elsewhere
        stay = before[name].keys() & after[name].keys()
        assert len(stay) > len(before[name]) * 0.8
        assert [row for row in stay if before[name][row] != after[name][row]] == []
    trained = {name for name in EXPERIMENTS if current(copied, "adapter", name).fingerprint != adapters[name]}
    assert trained == {name for name in EXPERIMENTS if before[name] != after[name]}
    assert ft_json(copied, "run")["steps"] == []


def tokens_by_row(root: Path, experiment: str) -> dict[str, dict[str, Any]]:
    """The training rows of an experiment, by id."""
    table = pq.read_table(current(root, "training_data", experiment).path / "train.parquet")
    return {row["id"]: row for row in table.to_pylist()}
