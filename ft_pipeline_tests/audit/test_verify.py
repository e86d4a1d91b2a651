"""Tampering with the store is detected and reported."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_pipeline.store.signature_check import UNSIGNED
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import Shop
from ft_pipeline_tests.audit.tampering import edit, flip, folder_of, some_file

KINDS = (
    *("raw_alpaca", "raw_sharegpt", "alpaca", "sharegpt", "conversations", "base_model", "training_data", "adapter"),
    *("merged_model", "scores", "comparison", "champion"),
)


def test_an_untouched_store_is_verified(released: Shop, ft_json: Command, ft: Command) -> None:
    document = ft_json("audit", "--verify")
    assert document["verified"] is True and document["problems"] == []
    assert document["counted"]["artifacts"] == len(KINDS) and document["counted"]["raw_files"] == 2
    assert document["notes"] == [UNSIGNED, "Dagster's event log is missing or empty; only the store was checked"]
    code, shown = ft("audit", "--verify")
    assert code == 0 and "all hashes match the records" in shown


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_reported(released: Shop, ft_json: Command, kind: str) -> None:
    file = some_file(folder_of(released, kind))
    flip(file)
    document = ft_json("audit", "--verify")
    assert document["verified"] is False
    (finding,) = document["findings"]
    assert finding["code"] == "changed_file" and finding["where"].startswith(kind)
    assert finding["message"].startswith(f"{file.name} was changed")


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_file_is_reported(released: Shop, ft_json: Command, kind: str) -> None:
    file = some_file(folder_of(released, kind))
    file.unlink()
    (finding,) = ft_json("audit", "--verify")["findings"]
    assert finding["code"] == "missing_file" and finding["where"].startswith(kind)
    assert finding["message"] == f"{file.name} was removed"


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_manifest_is_reported(released: Shop, ft_json: Command, kind: str, reseal: bool) -> None:
    edit(
        folder_of(released, kind) / "manifest.json",
        lambda manifest: manifest["run"].update(started_by="nobody"),
        reseal=reseal,
    )
    document = ft_json("audit", "--verify")
    assert document["verified"] is False
    assert all(finding["where"].startswith(kind) for finding in document["findings"])
    assert {finding["code"] for finding in document["findings"]} <= {"edited_manifest", "broken_link"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_artifact_is_reported(released: Shop, ft_json: Command, kind: str) -> None:
    shutil.rmtree(folder_of(released, kind).parent)
    document = ft_json("audit", "--verify")
    assert document["verified"] is False
    named = [finding for finding in document["findings"] if kind in finding["where"] + finding["message"]]
    assert {finding["code"] for finding in named} & {"missing_artifact", "edited_pointer"}


def test_an_added_file_is_reported(released: Shop, ft_json: Command) -> None:
    folder = folder_of(released, "adapter")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert ft_json("audit", "--verify")["problems"][0].endswith("pytorch_model.bin is not in its manifest")


def test_a_link_in_place_of_a_file_is_reported(released: Shop, ft_json: Command, tmp_path: Path) -> None:
    file = folder_of(released, "merged_model") / "model.safetensors"
    file.replace(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    (problem,) = ft_json("audit", "--verify")["problems"]
    assert "model.safetensors is a link" in problem


def test_a_link_in_place_of_a_folder_is_reported(released: Shop, ft_json: Command, tmp_path: Path) -> None:
    folder = folder_of(released, "adapter")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (finding,) = ft_json("audit", "--verify")["findings"]
    assert finding["code"] == "linked_folder" and "may point outside the store" in finding["message"]


def test_a_link_in_place_of_a_table_is_not_read(released: Shop, ft_json: Command, tmp_path: Path) -> None:
    rows = folder_of(released, "conversations") / "rows.parquet"
    rows.replace(tmp_path / "elsewhere.parquet")
    rows.symlink_to(tmp_path / "elsewhere.parquet")
    assert {row["origin"] for row in ft_json("audit", "--rows")["rows"]} == {"?"}


def test_a_moved_folder_is_reported(released: Shop, ft_json: Command) -> None:
    folder = folder_of(released, "adapter")
    folder.rename(folder.parent / ("0" * 16))
    codes = {finding["code"] for finding in ft_json("audit", "--verify")["findings"]}
    assert codes == {"edited_manifest", "missing_artifact", "edited_pointer"}


def test_a_changed_or_removed_raw_file_is_reported(released: Shop, ft_json: Command) -> None:
    first, second = sorted((released.store.root / "blobs").glob("*/*.zst"))
    flip(first)
    second.unlink()
    findings = ft_json("audit", "--verify")["findings"]
    assert {finding["code"] for finding in findings} == {"changed_raw_file", "missing_raw_file"}
    assert {finding["where"].split()[0] for finding in findings} == {
        "raw_alpaca/support.jsonl",
        "raw_sharegpt/chats.jsonl",
    }


def test_an_edited_champion_record_breaks_the_next_one(released: Shop, ft_json: Command) -> None:
    """Even if no artifact contains a copy of the record."""
    released.release(released.materialize(learning_rate=2e-3))
    edit(released.store.root / "champion" / "000001.json", lambda record: record.update(reason="because"))
    for folder in (released.store.root / "artifacts" / "champion").glob("*/*"):
        edit(folder / "manifest.json", lambda manifest: manifest["summary"].pop("champion", None), reseal=True)
    problems = ft_json("audit", "qlora", "--verify")["problems"]
    assert any(
        "champion/000001.json: does not match its hash in champion/000002.json: it was edited" in problem
        for problem in problems
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(reason="because"), "differs from its champion artifact in reason"),
        (
            lambda record: record["evidence"]["score"].update(value=0.1),
            "differs from its champion artifact in evidence",
        ),
        (lambda record: record["fingerprints"].update(adapter="0" * 64), "is not in the store"),
    ],
)
def test_an_edited_champion_record_is_reported(
    released: Shop, ft_json: Command, change: Callable[[dict], object], message: str
) -> None:
    edit(released.store.root / "champion" / "000001.json", change)
    problems = ft_json("audit", "qlora", "--verify")["problems"]
    assert any(message in problem for problem in problems)


def test_a_removed_champion_record_is_reported(released: Shop, ft_json: Command) -> None:
    made = released.materialize(learning_rate=2e-3)
    released.release(made, value=2.0)
    (released.store.root / "champion" / "000001.json").unlink()
    (problem,) = ft_json("audit", "qlora", "--verify")["problems"]
    assert problem == "champion/000001.json: is missing, although records are never removed"


def test_an_edited_pointer_is_reported(released: Shop, ft_json: Command) -> None:
    edit(released.store.root / "current" / "adapter@qlora.json", lambda pointer: pointer.update(fingerprint="0" * 64))
    (problem,) = ft_json("audit", "--verify")["problems"]
    assert problem.startswith("current/adapter@qlora.json: points to adapter 000000000000, which is not in the store")
    (released.store.root / "current" / "adapter@qlora.json").write_text("{")
    (problem,) = ft_json("audit", "--verify")["problems"]
    assert "cannot be read as the pointer" in problem


def test_the_chain_alone_can_be_verified(released: Shop, ft_json: Command) -> None:
    flip(some_file(folder_of(released, "scores")))
    assert ft_json("audit", "adapter@qlora", "--verify", "--chain-only")["verified"] is True
    assert ft_json("audit", "adapter@qlora", "--verify")["verified"] is False


def test_a_champion_record_without_its_artifacts_is_reported(released: Shop, ft_json: Command) -> None:
    """The last record has no successor whose hash would show the change."""
    edit(released.store.root / "champion" / "000001.json", lambda record: record.pop("fingerprints"))
    (finding,) = ft_json("audit", "qlora", "--verify")["findings"]
    assert (finding["code"], finding["where"]) == ("edited_record", "champion/000001.json")
