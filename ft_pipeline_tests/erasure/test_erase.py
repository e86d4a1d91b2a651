"""`ft erase`: the row is gone from everywhere, what it touched is marked, and the next run does without it."""

import io
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from ft_pipeline.errors import UserError
from ft_pipeline.store.locks import FileLock
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import ALPACA, SECRET, Shop
from ft_pipeline_tests.audit.tampering import flip, folder_of

FILE = "data/raw/alpaca/support.jsonl"
ROW = 5
NAMES = ("Fenwick", "Mill Lane")


def forget(ft_json: Command) -> dict:
    return ft_json("erase", FILE, str(ROW), "--reason", "request 4711")


def spoken(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file of a project as text, whatever packs it."""
    for path in (path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".zst":
            content = zstandard.ZstdDecompressor().stream_reader(content).read()
        if content[:4] == b"PAR1":
            content = json.dumps(pq.read_table(io.BytesIO(content)).to_pylist(), default=str).encode()
        yield path, content.decode("utf-8", "replace")


def holding(root: Path, *texts: str) -> list[str]:
    return [str(path.relative_to(root)) for path, text in spoken(root) if any(each in text for each in texts)]


def identity(shop: Shop) -> str:
    (path,) = (shop.store.root / "artifacts" / "alpaca").glob("*/*/rows.parquet")
    return next(row["id"] for row in pq.read_table(path).to_pylist() if row["row"] == ROW)


def test_nothing_of_the_row_is_left(released: Shop, ft_json: Command) -> None:
    own = identity(released)
    assert len(holding(released.root, *NAMES)) >= 5  # raw file, kept copy, table, conversations, manifests
    assert holding(released.root, own)
    done = forget(ft_json)
    assert holding(released.root, *NAMES, own) == []
    assert done["files"] == [FILE] and done["raw_files"] == 1
    assert {each["kind"] for each in done["artifacts"]} == {"alpaca", "conversations", "training_data"}
    for kind, name in (("adapter", "adapter_model.safetensors"), ("merged_model", "model.safetensors")):
        assert (folder_of(released, kind) / name).is_file()


def test_every_other_row_stays(released: Shop, ft_json: Command) -> None:
    raw = released.raw("alpaca", "support.jsonl")
    before = raw.read_text(encoding="utf-8").splitlines()
    rows = folder_of(released, "conversations") / "rows.parquet"
    others = [row for row in pq.read_table(rows).to_pylist() if row["row"] != ROW or row["table"] != "alpaca"]
    forget(ft_json)
    after = raw.read_text(encoding="utf-8").splitlines()
    assert after[: ROW - 1] + after[ROW:] == before[: ROW - 1] + before[ROW:]
    assert [row for row in pq.read_table(rows).to_pylist() if not row["id"].startswith("excluded:")] == others


def test_the_audit_says_redacted_and_not_verified(released: Shop, ft_json: Command, ft: Command) -> None:
    done = forget(ft_json)
    document = ft_json("audit", "--verify")
    assert document["verified"] is False and document["problems"] == []
    status = {node["kind"]: node["status"] for node in document["nodes"]}
    redacted = {kind for kind, each in status.items() if each == "redacted"}
    assert redacted >= {"raw_alpaca", "alpaca", "conversations", "training_data"}
    assert status["sharegpt"] == status["base_model"] == "verified"
    learned = {model["key"] for model in done["models"] if model["how"] == "trained on it"}
    assert all(status[kind] == "redacted" for kind in ("adapter", "merged_model")) == bool(learned)
    code, shown = ft("audit", "--verify")
    assert code == 0 and "Redacted on request, so not verified" in shown


def test_the_next_run_does_without_it(released: Shop, ft_json: Command, ft: Command) -> None:
    forget(ft_json)
    made = released.materialize()
    released.release(made)
    aside = pq.read_table(made["alpaca"].path / "set_aside.parquet").to_pylist()
    assert {(row["row"], row["code"]) for row in aside} == {(ROW, "excluded"), (14, "empty_output")}
    assert pq.read_table(made["alpaca"].path / "rows.parquet").num_rows == len(ALPACA)
    document = ft_json("audit", "--verify")
    assert document["verified"] is True and document["redacted"] == []
    assert any(row["code"] == "excluded" for row in ft_json("audit", "--left-out")["rows"])
    assert "were redacted on request" in ft("audit", "--verify")[1], "of the older ones"


def test_redacted_evidence_does_not_hide_that_the_model_is_verified(
    released: Shop, ft_json: Command, ft: Command
) -> None:
    old = json.loads((folder_of(released, "scores") / "manifest.json").read_bytes())["fingerprint"]
    forget(ft_json)
    made = released.materialize(learning_rate=2e-3)
    parts = {"qlora/scores": made["scores"], "champion/scores": released.store.require("scores", old)}
    made["comparison"] = released.put("comparison", None, parts, {}, {"comparison.json": b"{}"})
    released.release(made)
    assert ft_json("audit", "--verify")["verified"] is False
    shown = ft("audit", "--verify")[1]
    assert "Only the evidence is affected. Everything that the model itself was made from is verified" in shown
    assert "Only the evidence" not in ft("audit", "champion@1", "--verify")[1]


def test_a_row_that_is_put_back_is_not_used(released: Shop, ft_json: Command) -> None:
    raw = released.raw("alpaca", "support.jsonl")
    backup = raw.read_bytes()
    forget(ft_json)
    raw.with_name("restored.jsonl").write_bytes(backup)
    made = released.materialize()
    assert made["alpaca"].summary["reasons"]["excluded"] == 2
    texts = json.dumps(pq.read_table(made["conversations"].path / "rows.parquet").to_pylist())
    assert not any(name in texts for name in NAMES)


def test_a_redacted_artifact_is_not_reused(released: Shop, ft_json: Command) -> None:
    made = released.materialize()
    forget(ft_json)
    again = released.materialize()
    for kind in ("raw_alpaca", "alpaca", "conversations"):
        assert again[kind].path != made[kind].path
        assert not again[kind].redacted


def test_copies_in_other_files_go_too_and_kin_is_named(released: Shop, ft_json: Command) -> None:
    released.write("alpaca", "copy.jsonl", [ALPACA[0], SECRET])
    kin = {"text": SECRET["instruction"]}
    released.write("text", "notes.jsonl", [kin, {"text": "Another passage, of other things."}])
    done = forget(ft_json)
    assert sorted(done["files"]) == ["data/raw/alpaca/copy.jsonl", FILE]
    assert done["also"] == ["text/notes.jsonl:1"]
    assert holding(released.root, "It is changed to 12 Mill Lane") == []


def test_a_row_that_cannot_be_used_is_forgotten_as_well(released: Shop, ft_json: Command) -> None:
    assert holding(released.root, "Do you sell gift cards?")
    ft_json("erase", FILE, "14", "--reason", "asked for")
    assert holding(released.root, "Do you sell gift cards?") == []
    assert released.materialize()["alpaca"].summary["reasons"] == {"excluded": 1}


def test_two_requests_for_one_file(released: Shop, ft_json: Command) -> None:
    """The second one finds the copies that the first one left."""
    forget(ft_json)
    done = ft_json("erase", FILE, "14", "2", "--reason", "request 4712")
    assert done["raw_files"] == 1 and done["record"] == 2
    assert holding(released.root, *NAMES, "Do you sell gift cards?", ALPACA[1]["instruction"]) == []
    document = ft_json("audit", "--verify")
    assert document["problems"] == [] and document["counted"]["redactions"] == 2


def test_dagsters_record_and_the_logs_are_redacted(released: Shop, ft_json: Command) -> None:
    home = released.root / "dagster_home"
    (home / "history").mkdir()
    event = {"metadata": {"preview": {"records": [{"data": {"instruction": SECRET["instruction"], "n": 1}}]}}}
    short = {"shown": SECRET["output"][:30] + "…", "raw": json.dumps(SECRET)[:60]}
    with closing(sqlite3.connect(home / "history" / "index.db")) as connection:
        connection.execute("CREATE TABLE event_logs (id INTEGER PRIMARY KEY, event TEXT, other INTEGER)")
        for each in (event, short, {"instruction": "another"}):
            connection.execute("INSERT INTO event_logs (event) VALUES (?)", (json.dumps(each),))
        connection.commit()
    (home / "run.err").write_text(f"reading {SECRET['instruction']}\n", encoding="utf-8")
    done = forget(ft_json)
    assert done["events"] == 3
    assert holding(released.root, *NAMES) == []
    with closing(sqlite3.connect(home / "history" / "index.db")) as connection:
        found = [json.loads(text) for (text,) in connection.execute("SELECT event FROM event_logs ORDER BY id")]
    assert found[0]["metadata"]["preview"]["records"] == [{"data": {"instruction": "[forgotten]", "n": 1}}]
    assert found[2] == {"instruction": "another"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [("# storage:\n#   postgres: x\ntelemetry: {enabled: false}\n", False), ("storage:\n  postgres: {}\n", True)],
)
def test_a_database_elsewhere_is_told(released: Shop, ft_json: Command, settings: str, told: bool) -> None:
    """The lines that dagster.yaml has ready behind # are no setting."""
    (released.root / "dagster_home" / "dagster.yaml").write_text(settings, encoding="utf-8")
    assert any("separate database" in note for note in forget(ft_json)["notes"]) == told


def test_caches_and_unfinished_steps_go(released: Shop, ft_json: Command) -> None:
    store = released.store.root
    for relative in ("work/adapter/x/checkpoint.txt", "cache/tables/rows.arrow", "drafts/a/out/b.txt"):
        (store / relative).parent.mkdir(parents=True, exist_ok=True)
        (store / relative).write_text(SECRET["instruction"], encoding="utf-8")
    log = store / "teachers" / "t" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(
        json.dumps({"key": "k", "answer": SECRET["output"]}) + "\n" + json.dumps({"key": "l", "answer": "x"}) + "\n"
    )
    forget(ft_json)
    assert holding(released.root, *NAMES) == []
    assert [json.loads(line)["answer"] for line in log.read_text().splitlines()] == ["[forgotten]", "x"]


def test_what_was_cut_off_is_ended_by_the_same_command(released: Shop, ft_json: Command, tmp_path: Path) -> None:
    """The raw file is changed last: until then a second call finds the row, and everything that still holds it."""
    before = tmp_path / "before"
    shutil.copytree(released.root, before)
    forget(ft_json)
    shutil.copyfile(before / FILE, released.root / FILE)
    (released.store.root / "redactions" / "000001.json").unlink()
    for kind, name in (("conversations", "rows.parquet"), ("alpaca", "rows.parquet")):  # manifests written, files not
        path = folder_of(released, kind) / name
        shutil.copyfile(before / path.relative_to(released.root), path)
    forget(ft_json)
    assert holding(released.root, *NAMES) == []
    assert ft_json("audit", "--verify")["problems"] == []


def test_tampering_with_what_was_redacted_is_found(released: Shop, ft_json: Command) -> None:
    forget(ft_json)
    flip(folder_of(released, "conversations") / "rows.parquet")
    (noted,) = (released.store.root / "blobs").rglob("*.redacted.json")
    flip(noted.with_name(noted.name.replace("redacted.json", "zst")))
    notes = ft_json("erase", FILE, "14", "--reason", "two")["notes"]
    assert any("it cannot be read: the kept copy of support.jsonl" in note for note in notes)
    record = released.store.root / "redactions" / "000001.json"
    record.write_text(record.read_text(encoding="utf-8").replace("4711", "4712"), encoding="utf-8")
    codes = {finding["code"] for finding in ft_json("audit", "--verify")["findings"]}
    assert codes == {"changed_file", "changed_raw_file", "edited_record"}
    record.unlink()
    problems = ft_json("audit", "--verify")["problems"]
    assert "redactions/000001.json: is missing, although records are never removed" in problems


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FILE, "99"), "has no row 99; its rows are 1 to 14"),
        (("data/raw/alpaca/none.jsonl", "1"), "there is no file"),
        (("project.yaml", "1"), "is not in data/raw/FORMAT"),
    ],
)
def test_what_cannot_be_forgotten_is_refused(
    released: Shop, ft: Command, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ft("erase", *arguments, "--reason", "x")
    assert not (released.root / "data" / "excluded.yaml").exists()


def test_a_reason_is_asked_for(released: Shop, ft: Command) -> None:
    assert ft("erase", FILE, "1")[0] == 2
    with pytest.raises(UserError, match="reason is empty"):
        ft("erase", FILE, "1", "--reason", " ")


def test_a_forgotten_row_is_not_forgotten_twice(released: Shop, ft: Command, ft_json: Command) -> None:
    forget(ft_json)
    with pytest.raises(UserError, match="was already erased"):
        ft("erase", FILE, str(ROW), "--reason", "again")


def test_nothing_is_forgotten_while_a_run_is_under_way(released: Shop, ft: Command) -> None:
    lock = FileLock(released.store.root / "locks" / "adapter-1", "building adapter")
    with lock.hold(), pytest.raises(UserError, match="a run is in progress"):
        ft("erase", FILE, str(ROW), "--reason", "x")
    assert holding(released.root, *NAMES)


def test_an_unreadable_excluded_yaml_stops_the_tables(released: Shop) -> None:
    (released.root / "data" / "excluded.yaml").write_text("rows: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"data/excluded\.yaml is invalid"):
        released.materialize()
