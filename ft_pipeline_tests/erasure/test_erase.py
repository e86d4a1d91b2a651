"""`ft erase` removes a row from every file, marks what it changed, and keeps the row out of later runs."""

import io
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from ft_pipeline.erasure.erase import erase
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.store.artifact_redaction import read_redactions
from ft_pipeline.store.locks import FileLock
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import ALPACA, SECRET, Shop
from ft_pipeline_tests.audit.tampering import flip, folder_of

FILE = "data/raw/alpaca/support.jsonl"
ROW = 5
NAMES = ("Fenwick", "Mill Lane")


def erase_row(ft_json: Command) -> dict:
    return ft_json("erase", FILE, str(ROW), "--reason", "request 4711")


def project_texts(root: Path) -> Iterator[tuple[Path, str]]:
    """Path and text of every file of a project, unpacked."""
    for path in (path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".zst":
            content = zstandard.ZstdDecompressor().stream_reader(content).read()
        if content[:4] == b"PAR1":
            content = json.dumps(pq.read_table(io.BytesIO(content)).to_pylist(), default=str).encode()
        yield path, content.decode("utf-8", "replace")


def files_containing(root: Path, *texts: str) -> list[str]:
    return [
        str(path.relative_to(root)) for path, text in project_texts(root) if any(searched in text for searched in texts)
    ]


def erased_row_id(shop: Shop) -> str:
    (path,) = (shop.store.root / "artifacts" / "alpaca").glob("*/*/rows.parquet")
    return next(row["id"] for row in pq.read_table(path).to_pylist() if row["row"] == ROW)


def test_no_file_contains_the_erased_row(released: Shop, ft_json: Command) -> None:
    row_id = erased_row_id(released)
    assert len(files_containing(released.root, *NAMES)) >= 5  # raw file, kept copy, table, conversations, manifests
    assert files_containing(released.root, row_id)
    result = erase_row(ft_json)
    assert files_containing(released.root, *NAMES, row_id) == []
    assert result["files"] == [FILE] and result["raw_files"] == 1
    assert {artifact["kind"] for artifact in result["artifacts"]} == {"alpaca", "conversations", "training_data"}
    for kind, name in (("adapter", "adapter_model.safetensors"), ("merged_model", "model.safetensors")):
        assert (folder_of(released, kind) / name).is_file()


def test_every_other_row_stays(released: Shop, ft_json: Command) -> None:
    raw = released.raw("alpaca", "support.jsonl")
    before = raw.read_text(encoding="utf-8").splitlines()
    rows = folder_of(released, "conversations") / "rows.parquet"
    other_rows = [row for row in pq.read_table(rows).to_pylist() if row["row"] != ROW or row["table"] != "alpaca"]
    erase_row(ft_json)
    after = raw.read_text(encoding="utf-8").splitlines()
    assert after[: ROW - 1] + after[ROW:] == before[: ROW - 1] + before[ROW:]
    assert [row for row in pq.read_table(rows).to_pylist() if not row["id"].startswith("excluded:")] == other_rows


def test_the_audit_reports_redacted_artifacts_as_not_verified(released: Shop, ft_json: Command, ft: Command) -> None:
    result = erase_row(ft_json)
    document = ft_json("audit", "--verify")
    assert document["verified"] is False and document["problems"] == []
    status = {node["kind"]: node["status"] for node in document["nodes"]}
    redacted = {kind for kind, node_status in status.items() if node_status == "redacted"}
    assert redacted >= {"raw_alpaca", "alpaca", "conversations", "training_data"}
    assert status["sharegpt"] == status["base_model"] == "verified"
    trained_models = {model["key"] for model in result["models"] if model["how"] == "trained on it"}
    assert all(status[kind] == "redacted" for kind in ("adapter", "merged_model")) == bool(trained_models)
    code, shown = ft("audit", "--verify")
    assert code == 0 and "Redacted on request, so not verified" in shown


def test_the_next_run_excludes_the_erased_row(released: Shop, ft_json: Command, ft: Command) -> None:
    erase_row(ft_json)
    artifacts = released.materialize()
    released.release(artifacts)
    set_aside = pq.read_table(artifacts["alpaca"].path / "set_aside.parquet").to_pylist()
    assert {(row["row"], row["code"]) for row in set_aside} == {(ROW, "excluded"), (14, "empty_output")}
    assert pq.read_table(artifacts["alpaca"].path / "rows.parquet").num_rows == len(ALPACA)
    document = ft_json("audit", "--verify")
    assert document["verified"] is True and document["redacted"] == []
    assert any(row["code"] == "excluded" for row in ft_json("audit", "--left-out")["rows"])
    assert "were redacted on request" in ft("audit", "--verify")[1], "the older artifacts"


def test_a_model_stays_verified_if_only_its_evidence_is_redacted(released: Shop, ft_json: Command, ft: Command) -> None:
    old_scores = json.loads((folder_of(released, "scores") / "manifest.json").read_bytes())["fingerprint"]
    erase_row(ft_json)
    artifacts = released.materialize(learning_rate=2e-3)
    parts = {"qlora/scores": artifacts["scores"], "champion/scores": released.store.require("scores", old_scores)}
    artifacts["comparison"] = released.put("comparison", None, parts, {}, {"comparison.json": b"{}"})
    released.release(artifacts)
    assert ft_json("audit", "--verify")["verified"] is False
    shown = ft("audit", "--verify")[1]
    assert "Only the evidence is affected. Everything that the model itself was made from is verified" in shown
    assert "Only the evidence" not in ft("audit", "champion@1", "--verify")[1]


def test_a_restored_row_is_not_used(released: Shop, ft_json: Command) -> None:
    raw = released.raw("alpaca", "support.jsonl")
    backup = raw.read_bytes()
    erase_row(ft_json)
    raw.with_name("restored.jsonl").write_bytes(backup)
    artifacts = released.materialize()
    assert artifacts["alpaca"].summary["reasons"]["excluded"] == 2
    texts = json.dumps(pq.read_table(artifacts["conversations"].path / "rows.parquet").to_pylist())
    assert not any(name in texts for name in NAMES)


def test_a_redacted_artifact_is_not_reused(released: Shop, ft_json: Command) -> None:
    artifacts = released.materialize()
    erase_row(ft_json)
    rebuilt = released.materialize()
    for kind in ("raw_alpaca", "alpaca", "conversations"):
        assert rebuilt[kind].path != artifacts[kind].path
        assert not rebuilt[kind].redacted


def test_copies_in_other_files_are_erased_and_similar_rows_are_named(released: Shop, ft_json: Command) -> None:
    released.write("alpaca", "copy.jsonl", [ALPACA[0], SECRET])
    other_answer = {"instruction": SECRET["instruction"], "output": "Which parcel do you mean?"}
    released.write("alpaca", "other.jsonl", [other_answer])
    result = erase_row(ft_json)
    assert sorted(result["files"]) == ["data/raw/alpaca/copy.jsonl", FILE]
    assert result["also"] == ["alpaca/other.jsonl:1"]
    assert files_containing(released.root, "It is changed to 12 Mill Lane") == []
    assert files_containing(released.root, SECRET["instruction"]) == ["data/raw/alpaca/other.jsonl"]


def test_a_quarantined_row_can_be_erased(released: Shop, ft_json: Command) -> None:
    assert files_containing(released.root, "Do you sell gift cards?")
    ft_json("erase", FILE, "14", "--reason", "asked for")
    assert files_containing(released.root, "Do you sell gift cards?") == []
    assert released.materialize()["alpaca"].summary["reasons"] == {"excluded": 1}


def test_a_second_request_can_erase_more_rows_of_a_file(released: Shop, ft_json: Command) -> None:
    """The second request finds the copies that the first one redacted."""
    erase_row(ft_json)
    result = ft_json("erase", FILE, "14", "2", "--reason", "request 4712")
    assert result["raw_files"] == 1 and result["record"] == 2
    assert files_containing(released.root, *NAMES, "Do you sell gift cards?", ALPACA[1]["instruction"]) == []
    document = ft_json("audit", "--verify")
    assert document["problems"] == [] and document["counted"]["redactions"] == 2


def test_a_gap_in_the_records_does_not_stop_an_erasure(released: Shop, ft_json: Command) -> None:
    """A record that someone removed must not leave the next erasure without a record."""
    erase_row(ft_json)
    ft_json("erase", FILE, "14", "--reason", "request 4712")
    (released.store.root / "redactions" / "000001.json").unlink()
    assert ft_json("erase", FILE, "2", "--reason", "request 4713")["record"] == 3
    assert [record.number for record in read_redactions(released.store.root)] == [2, 3]


def test_an_erasure_without_a_record_leaves_the_raw_file(
    released: Shop, ft_json: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is written before the raw file changes, so that the same command can complete the erasure."""
    before = released.raw("alpaca", "support.jsonl").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr("ft_pipeline.erasure.erase.append_redaction", _fail)
        erase(Project(released.root), released.root / FILE, [ROW], "request 4711")
    assert released.raw("alpaca", "support.jsonl").read_bytes() == before
    assert erase_row(ft_json)["record"] == 1
    assert files_containing(released.root, *NAMES) == []


def _fail(*_: object) -> None:
    raise OSError("power cut")


def test_dagster_events_and_logs_are_redacted(released: Shop, ft_json: Command) -> None:
    home = released.root / "dagster_home"
    (home / "history").mkdir()
    event = {"metadata": {"preview": {"records": [{"data": {"instruction": SECRET["instruction"], "n": 1}}]}}}
    shortened_event = {"shown": SECRET["output"][:30] + "…", "raw": json.dumps(SECRET)[:60]}
    with closing(sqlite3.connect(home / "history" / "index.db")) as connection:
        connection.execute("CREATE TABLE event_logs (id INTEGER PRIMARY KEY, event TEXT, other INTEGER)")
        for record in (event, shortened_event, {"instruction": "another"}):
            connection.execute("INSERT INTO event_logs (event) VALUES (?)", (json.dumps(record),))
        connection.commit()
    (home / "run.err").write_text(f"reading {SECRET['instruction']}\n", encoding="utf-8")
    result = erase_row(ft_json)
    assert result["events"] == 3
    assert files_containing(released.root, *NAMES) == []
    with closing(sqlite3.connect(home / "history" / "index.db")) as connection:
        events = [json.loads(text) for (text,) in connection.execute("SELECT event FROM event_logs ORDER BY id")]
    assert events[0]["metadata"]["preview"]["records"] == [{"data": {"instruction": "[forgotten]", "n": 1}}]
    assert events[2] == {"instruction": "another"}


@pytest.mark.parametrize(
    ("settings", "reported"),
    [("# storage:\n#   postgres: x\ntelemetry: {enabled: false}\n", False), ("storage:\n  postgres: {}\n", True)],
)
def test_a_separate_database_is_reported(released: Shop, ft_json: Command, settings: str, reported: bool) -> None:
    """Commented lines of dagster.yaml are not settings."""
    (released.root / "dagster_home" / "dagster.yaml").write_text(settings, encoding="utf-8")
    assert any("separate database" in note for note in erase_row(ft_json)["notes"]) == reported


def test_the_row_is_erased_from_caches_and_unfinished_steps(released: Shop, ft_json: Command) -> None:
    store = released.store.root
    for relative in ("work/adapter/x/checkpoint.txt", "cache/tables/rows.arrow", "drafts/a/out/b.txt"):
        (store / relative).parent.mkdir(parents=True, exist_ok=True)
        (store / relative).write_text(SECRET["instruction"], encoding="utf-8")
    log = store / "teachers" / "t" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(
        "".join(
            json.dumps({"event": "answered", "key": key, "answer": answer}) + "\n"
            for key, answer in (("k", SECRET["output"]), ("l", "x"))
        )
    )
    erase_row(ft_json)
    assert files_containing(released.root, *NAMES) == []
    assert [json.loads(line)["answer"] for line in log.read_text().splitlines()] == ["", "x"]


def test_the_same_command_finishes_an_interrupted_erasure(released: Shop, ft_json: Command, tmp_path: Path) -> None:
    """The raw file is changed last, so that a second call finds the row and every file that still contains it."""
    before = tmp_path / "before"
    shutil.copytree(released.root, before)
    erase_row(ft_json)
    shutil.copyfile(before / FILE, released.root / FILE)
    (released.store.root / "redactions" / "000001.json").unlink()
    for kind, name in (("conversations", "rows.parquet"), ("alpaca", "rows.parquet")):  # manifests written, files not
        path = folder_of(released, kind) / name
        shutil.copyfile(before / path.relative_to(released.root), path)
    erase_row(ft_json)
    assert files_containing(released.root, *NAMES) == []
    assert ft_json("audit", "--verify")["problems"] == []


def test_tampering_with_redacted_files_is_found(released: Shop, ft_json: Command) -> None:
    erase_row(ft_json)
    flip(folder_of(released, "conversations") / "rows.parquet")
    (noted,) = (released.store.root / "blobs").rglob("*.redacted.json")
    flip(noted.with_name(noted.name.replace("redacted.json", "zst")))
    notes = ft_json("erase", FILE, "14", "--reason", "two")["notes"]
    assert any("it cannot be read: the kept copy of support.jsonl" in note for note in notes)
    record = released.store.root / "redactions" / "000001.json"
    record.write_text(record.read_text(encoding="utf-8").replace("request 4711", "request 4712"), encoding="utf-8")
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
def test_an_unknown_row_or_file_is_refused(
    released: Shop, ft: Command, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ft("erase", *arguments, "--reason", "x")
    assert not (released.root / "data" / "excluded.yaml").exists()


def test_a_reason_is_required(released: Shop, ft: Command) -> None:
    assert ft("erase", FILE, "1")[0] == 2
    with pytest.raises(UserError, match="reason is empty"):
        ft("erase", FILE, "1", "--reason", " ")


def test_a_row_cannot_be_erased_twice(released: Shop, ft: Command, ft_json: Command) -> None:
    erase_row(ft_json)
    with pytest.raises(UserError, match="was already erased"):
        ft("erase", FILE, str(ROW), "--reason", "again")


def test_nothing_is_erased_during_a_run(released: Shop, ft: Command) -> None:
    lock = FileLock(released.store.root / "locks" / "adapter-1", "building adapter")
    with lock.hold(), pytest.raises(UserError, match="a run is in progress"):
        ft("erase", FILE, str(ROW), "--reason", "x")
    assert files_containing(released.root, *NAMES)


def test_an_invalid_excluded_yaml_stops_the_tables(released: Shop) -> None:
    (released.root / "data" / "excluded.yaml").write_text("rows: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"data/excluded\.yaml is invalid"):
        released.materialize()


DEEP_JSON = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
DEEP_YAML = b"[" * 600 + b"]" * 600
BOMB = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]).encode()


@pytest.fixture
def no_endless_wait() -> Iterator[None]:
    """Fail a test that waits for a pipe, or counts without end."""

    def stop(*_: object) -> None:
        raise AssertionError("the erasure waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("no_endless_wait")
def test_pipes_are_named_as_not_searched(released: Shop, ft_json: Command) -> None:
    names = (
        "data/raw/alpaca/pipe.jsonl",
        "data/store/champion/000009.json",
        "data/store/notifications.jsonl",
        "data/store/teachers/t/log.jsonl",
        "dagster_home/history/runs.db",
        "dagster_home/run.err",
        "notes/pipe.txt",
    )
    for name in names:
        (released.root / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(released.root / name)
    notes = erase_row(ft_json)["notes"]
    assert [name for name in names if not any(name in note and "not searched" in note for note in notes)] == []
    assert files_containing(released.root, *NAMES) == []


@pytest.mark.usefixtures("no_endless_wait")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data/store/inbox/99999999.json", DEEP_JSON),
        ("data/store/inbox/99999999.json", b"[1]"),
        ("dagster_home/history/runs.db", b"no database" * 999),
    ],
)
def test_records_that_cannot_be_read_are_named_as_not_searched(
    released: Shop, ft_json: Command, name: str, content: bytes
) -> None:
    (released.root / name).parent.mkdir(parents=True, exist_ok=True)
    (released.root / name).write_bytes(content)
    notes = erase_row(ft_json)["notes"]
    assert any(note.startswith(name) and "not searched" in note for note in notes), notes
    assert files_containing(released.root, *NAMES) == []


@pytest.mark.usefixtures("no_endless_wait", "usual_recursion_limit")
@pytest.mark.parametrize("content", [BOMB, DEEP_YAML])
def test_a_planted_list_of_erased_rows_is_refused(released: Shop, ft: Command, content: bytes) -> None:
    (released.root / "data" / "excluded.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"data/excluded\.yaml is invalid"):
        ft("erase", FILE, str(ROW), "--reason", "request 4711")
    assert files_containing(released.root, *NAMES)


def test_a_broken_champion_record_stops_an_erasure_before_it_begins(released: Shop, ft: Command) -> None:
    """Which champions learned from the row could not be told."""
    (released.store.root / "champion" / "99999999.json").write_bytes(DEEP_JSON)
    with pytest.raises(UserError, match=r"The record champion/99999999\.json cannot be read"):
        ft("erase", FILE, str(ROW), "--reason", "request 4711")
    assert not (released.root / "data" / "excluded.yaml").exists()


@pytest.mark.parametrize("line", [DEEP_JSON, b"[1]", b'{"answer": 3}', b'{"answer": "", "calls": [1]}'])
def test_lines_of_another_form_do_not_stop_an_erasure(released: Shop, ft_json: Command, line: bytes) -> None:
    event = json.dumps({"event": "answered", "key": "k", "answer": SECRET["output"]}).encode()
    for name in ("notifications.jsonl", "teachers/t/log.jsonl"):
        path = released.store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(line + b"\n" + event + b"\n")
    erase_row(ft_json)
    assert files_containing(released.root, *NAMES) == []
