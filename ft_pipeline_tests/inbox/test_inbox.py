"""From the log of a served model to accepted calls in data/raw/traces: joined, checked, decided on once."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.audit.verify import verify
from ft_pipeline.errors import UserError
from ft_pipeline.inbox.decide import decide, find_open
from ft_pipeline.inbox.decisions import ledger
from ft_pipeline.inbox.proposals import read_inbox, turns_of
from ft_pipeline.inbox.traffic import log_path
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.project import Project
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.validate import validate_file
from ft_pipeline_tests.inbox.served import NOON, QUESTION, RIGHT, WRONG, accepted_lines, call, new_project, said, write

MONDAY, TUESDAY = "traces-2026-11-23.jsonl", "traces-2026-11-24.jsonl"


@pytest.fixture
def shop(tmp_path: Path) -> Project:
    return new_project(tmp_path / "shop")


@pytest.fixture
def log(shop: Project) -> Path:
    """The log, in which feedback is in another file than its call."""
    folder = shop.root / "traffic"
    write(
        folder / MONDAY,
        call("a", session_id="s1"),
        call("b", "Do you ship to Malta?", "Yes, we do."),
        call("c", "Is the shop open on Sunday?", "Perhaps."),
        call("d", "Where is my parcel?", "In Bonn."),
    )
    write(
        folder / TUESDAY,
        said("a", 10, rating="down", correction="Yes."),
        said("b", 20, rating="up"),
        said("a", 30, correction=RIGHT, user="ann"),
        said("c", 40, rating="down"),
        said("gone", 50, rating="up"),
    )
    return folder


def ids(shop: Project, log: Path, *, rated_up: bool = False) -> list[str]:
    return [proposal.id for proposal in read_inbox(shop, log).listed(rated_up=rated_up)]


def test_feedback_is_joined_with_calls_of_other_files(shop: Project, log: Path) -> None:
    found = read_inbox(shop, log)
    (proposal,) = found.listed(rated_up=False)
    assert (proposal.id, proposal.kind, proposal.time, proposal.user) == ("a", "correction", NOON + 30, "ann")
    assert (proposal.question, proposal.answer, proposal.correction) == (QUESTION, WRONG, RIGHT)
    assert (proposal.session, proposal.workload, proposal.checks) == ("s1", "shop", "ok")
    assert ids(shop, log, rated_up=True) == ["a", "b"], "newest first"
    document = found.to_json(rated_up=True)
    assert (document["rated_down"], document["feedback_without_call"], document["rated_up"]) == (1, 1, 1)
    assert turns_of(found.traffic.calls["a"]) == [("user", QUESTION), ("assistant", WRONG)]
    assert ids(shop, log / TUESDAY) == [], "a log of one file"


def test_an_accepted_call_is_a_row_of_the_tables_and_does_not_come_back(shop: Project, log: Path) -> None:
    decided = decide(shop, log, accept=["a"], reason="checked with the shop")
    (name,) = decided.files
    path = shop.raw_folder("traces") / name
    report = validate_file(path, "traces", data_dir=path.parent)
    assert (report.account.read, report.account.accepted) == (1, 1)
    logged, feedback = accepted_lines(shop)
    assert logged == call("a", session_id="s1")
    assert feedback == said("a", 30, rating="down", correction=RIGHT, user="ann")
    assert ids(shop, log, rated_up=True) == ["b"]
    with pytest.raises(UserError, match=r"'a' was accepted on .* proposed again when there is newer feedback\."):
        decide(shop, log, accept=["a"])
    assert len(accepted_lines(shop)) == 2
    (entry,) = ledger(shop.store).read()
    assert (entry["decision"], entry["reason"], entry["files"]) == ("accepted", "checked with the shop", [name])
    assert entry["calls"] == [{"id": "a", "time": NOON + 30, "lines": 1}] and entry["by"]


def test_a_decision_lasts_until_there_is_newer_feedback(shop: Project, log: Path) -> None:
    decide(shop, log, accept=["a"], reject=["b"])
    assert ids(shop, log, rated_up=True) == []
    write(log / TUESDAY, said("a", 30, correction="Yes, within 60 days."), said("b", 90, correction="Not to Malta."))
    assert ids(shop, log) == ["b", "a"], "also a line of the same second"
    decide(shop, log, accept=["a", "b"])
    lines = accepted_lines(shop)
    assert [line["id"] for line in lines if "request" in line] == ["a", "b"], "no call is there twice"
    assert [line["feedback"]["correction"] for line in lines if "feedback" in line] == [
        RIGHT,
        "Yes, within 60 days.",
        "Not to Malta.",
    ]
    assert [line.get("feedback", line)["id"] for line in lines] == ["a", "a", "a", "b", "b"]


def test_newer_feedback_goes_to_the_file_that_has_the_call(shop: Project, log: Path, tmp_path: Path) -> None:
    decide(shop, log, accept=["a"])
    (path,) = shop.raw_folder("traces").glob("*")
    earlier = path.rename(path.with_name("accepted-2026-01-01.jsonl"))
    write(log / TUESDAY, said("a", 99, correction="Yes, always."))
    assert decide(shop, log, accept=["a"]).files == [earlier.name]
    assert list(shop.raw_folder("traces").glob("*")) == [earlier]
    source = SourceFile(f"../traces/{earlier.name}", earlier, "")
    build_table("preferences", [source], tmp_path / "pairs", max_quarantined=0.1)
    (pair,) = pq.read_table(tmp_path / "pairs" / "rows.parquet").to_pylist()
    assert [pair[name][0]["content"] for name in ("chosen", "rejected")] == ["Yes, always.", WRONG]


def test_a_call_that_was_erased_is_not_accepted_again(shop: Project, log: Path) -> None:
    decide(shop, log, accept=["a"])
    (path,) = shop.raw_folder("traces").glob("*")
    path.write_text('{"excluded": "excluded:' + "0" * 64 + '"}\n', encoding="utf-8")
    write(log / TUESDAY, said("a", 99, correction="Yes, always."))
    (proposal,) = read_inbox(shop, log).listed(rated_up=False)
    assert proposal.checks.startswith("removed: ") and not proposal.is_acceptable
    with pytest.raises(UserError, match=r"'a' would not be used \(removed: .*\)\. Reject it"):
        decide(shop, log, accept=["a"])


def test_a_write_that_was_interrupted_before_the_record_is_completed(shop: Project, log: Path) -> None:
    decide(shop, log, accept=["a"])
    ledger(shop.store).path(1).unlink()  # as if the process had died between the two writes
    assert ids(shop, log) == ["a"]
    decide(shop, log, accept=["a"])
    assert len(accepted_lines(shop)) == 2


def test_what_the_tables_would_quarantine_cannot_be_accepted(shop: Project, log: Path) -> None:
    write(log / TUESDAY, call("e", "Hello?", "Hi."), said("e", 60, correction="Hi."), said("d", 70, correction="\x00"))
    checks = {proposal.id: proposal for proposal in read_inbox(shop, log).listed(rated_up=False)}
    assert checks["a"].is_acceptable and not checks["d"].is_acceptable and not checks["e"].is_acceptable
    assert checks["e"].checks.startswith("chosen_equals_rejected: `chosen` and `rejected` are equal")
    assert "sidecar" not in checks["e"].checks
    with pytest.raises(UserError, match="'e' would not be used"):
        decide(shop, log, accept=["a", "e"])
    assert accepted_lines(shop) == [] and ledger(shop.store).read() == [], "all or nothing"


def test_hints_name_personal_data(shop: Project, log: Path) -> None:
    write(log / TUESDAY, said("d", 70, correction="Write to ann@example.com."))
    (proposal, _) = read_inbox(shop, log).listed(rated_up=False)
    assert (proposal.checks, proposal.hints) == ("ok; contains an e-mail address", ("pii_email",))
    assert decide(shop, log, accept=["d"]).accepted == ["d"], "a hint is a warning"


def test_broken_lines_are_counted_and_named(shop: Project, log: Path) -> None:
    whole = json.dumps(call("z"), separators=(",", ":"))
    time = {"feedback": {"id": "d", "timestamp": 1e300, "correction": "In Köln."}}
    write(log / MONDAY, whole[:50], "[1]", '{"other":1}', '{"id":"","request":{},"response":{}}', time)
    write(log / TUESDAY, '{"feedback":{"rating":"up"}}', '{"feedback":{"id":"a","rating":"sideways"}}', "")
    (log / "traces-2026-11-25.jsonl").write_bytes(b'{"id":"a\xff"\n\xff\xfe\n')
    found = read_inbox(shop, log)
    assert [(line.file, line.line) for line in found.traffic.broken] == [
        *((MONDAY, number) for number in (5, 6, 7, 8)),
        *((TUESDAY, number) for number in (6, 7)),
        ("traces-2026-11-25.jsonl", 1),
        ("traces-2026-11-25.jsonl", 2),
    ]
    assert found.to_json(rated_up=False)["broken_lines"][4].startswith(f"{TUESDAY}, line 6: ")
    assert {proposal.id for proposal in found.listed(rated_up=False)} == {"a", "d"}


def test_unknown_ids_name_the_closest(shop: Project, log: Path) -> None:
    write(log / MONDAY, call("chatcmpl-77", "How tall is it?"), said("chatcmpl-77", 5, correction="Two meters."))
    found = read_inbox(shop, log)
    with pytest.raises(UserError, match=r"No open proposal has the id 'chatcmpl-78'\. The closest is 'chatcmpl-77'\."):
        find_open(found, "chatcmpl-78")
    with pytest.raises(UserError, match=r"'d' was neither corrected nor rated|No open proposal has the id 'd'"):
        find_open(found, "d")
    with pytest.raises(UserError, match=r"'a' is to be accepted and rejected\. Name it once\."):
        decide(shop, log, accept=["a"], reject=["a"])


def test_a_thumb_down_is_accepted_as_feedback_alone(shop: Project, log: Path, tmp_path: Path) -> None:
    """A later call of the conversation that holds the bad answer does not train it, and nothing says it came later."""
    asked = [{"role": "user", "content": "Is the shop open on Sunday?"}, {"role": "assistant", "content": "Perhaps."}]
    later = [*asked, {"role": "user", "content": "And on Monday?"}]
    document = call("f", "And on Monday?", "From eight to eight.")
    document["request"]["messages"] = later
    write(log / TUESDAY, document, said("f", 80, rating="up"))
    found = read_inbox(shop, log)
    (proposal,) = [each for each in found.listed(rated_up=False, rated_down=True) if each.kind == "rated down"]
    assert (proposal.id, proposal.checks) == ("c", "ok")
    decide(shop, log, accept=["c", "f"])
    assert read_inbox(shop, log).rated_down_later == []
    (path,) = shop.raw_folder("traces").glob("*")
    source = SourceFile(f"../traces/{path.name}", path, "")
    build_table("feedback", [source], tmp_path / "thumbs", max_quarantined=0.1)
    rows = pq.read_table(tmp_path / "thumbs" / "rows.parquet").to_pylist()
    assert {(row["completion"][0]["content"], row["label"]) for row in rows} == {
        ("Perhaps.", False),
        ("From eight to eight.", True),
    }
    build_table("traces", [replace(source, name=path.name)], tmp_path / "calls", max_quarantined=0.1)
    (conversation,) = pq.read_table(tmp_path / "calls" / "rows.parquet").to_pylist()
    assert [turn["weight"] for turn in conversation["messages"]] == [None, 0.0, None, None]


def test_earlier_answers_that_nobody_accepted_are_not_trained(shop: Project, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": WRONG}]
    second = [*first, {"role": "user", "content": "Are you sure?"}, {"role": "assistant", "content": "Sure."}]
    write(
        log / MONDAY,
        call("one"),
        call("two", "Are you sure?", "Sure.", earlier=first),
        call("three", "Thanks.", "Bye.", earlier=second),
        said("one", 1, rating="down"),
        said("two", 2, rating="up"),
        said("three", 3, correction="You are welcome."),
    )
    decide(shop, log, accept=["three", "two"])
    three, two = (line["request"]["messages"] for line in accepted_lines(shop) if "request" in line)
    assert [turn.get("weight") for turn in two] == [None, 0, None]
    assert [turn.get("weight") for turn in three] == [None, 0, None, None, None], "the second one was accepted too"


def accept_in_process(
    root: Path, barrier: "multiprocessing.synchronize.Barrier", results: "multiprocessing.Queue[str]"
):
    barrier.wait()
    try:
        decide(Project(root), root / "traffic", accept=["a"])
        results.put("accepted")
    except UserError as error:
        results.put(str(error))


def test_two_processes_accept_a_proposal_once(shop: Project, log: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=accept_in_process, args=(shop.root, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    outcomes = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert outcomes[1] == "accepted" and outcomes[0].startswith("'a' was accepted on ")
    assert len(accepted_lines(shop)) == 2 and len(ledger(shop.store).read()) == 1


def test_a_line_that_was_cut_off_stays_a_line_of_its_own(shop: Project, log: Path) -> None:
    decide(shop, log, accept=["a"])
    (path,) = shop.raw_folder("traces").glob("*")
    path.write_bytes(path.read_bytes()[:-1])
    decide(shop, log, accept=["b"])
    assert len(accepted_lines(shop)) == 4


def test_the_record_of_decisions_is_checked(shop: Project, log: Path) -> None:
    decide(shop, log, reject=["a"])
    decide(shop, log, reject=["b"])
    assert verify(ArtifactIndex(shop.store)).counted["inbox_records"] == 2
    path = ledger(shop.store).path(1)
    path.write_text(path.read_text(encoding="utf-8").replace("rejected", "accepted"), encoding="utf-8")
    with pytest.raises(UserError, match=r"The record of the inbox is damaged: inbox/000001\.json .* Restore"):
        read_inbox(shop, log)
    (finding,) = verify(ArtifactIndex(shop.store)).problems
    assert (finding.code, finding.where) == ("edited_record", "inbox/000001.json")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (None, r"No log of served answers is named\. Use --log PATH, or set `inbox\.log`"),
        ("../elsewhere", r"`inbox\.log` is '\.\./elsewhere', which is outside the project folder\."),
        ("data/raw/traces", r"The log data/raw/traces is inside data/raw or data/store\."),
        ("data/store/log", r"is inside data/raw or data/store\. Use another folder"),
    ],
)
def test_the_log_is_inside_the_project_and_outside_its_data(tmp_path: Path, named: str | None, message: str) -> None:
    project = new_project(tmp_path / "shop", named)
    with pytest.raises(UserError, match=message):
        log_path(project, None)
    assert log_path(project, tmp_path / "given") == tmp_path / "given"
    with pytest.raises(UserError, match="is inside data/raw"):
        log_path(project, project.root / "data" / "raw")


def test_a_call_of_tools_can_be_corrected(shop: Project, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    asked = call("t", "Where is it?", "I do not know.")
    asked["request"]["tools"] = [tool]
    calling = {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]}
    write(tmp_path / "log.jsonl", asked, said("t", 1, correction={"role": "assistant", "content": None, **calling}))
    (proposal,) = read_inbox(shop, tmp_path / "log.jsonl").listed(rated_up=False)
    assert (proposal.checks, proposal.correction) == ("ok", '{"name":"find","arguments":"{}"}')
    decide(shop, tmp_path / "log.jsonl", accept=["t"])
    assert len(accepted_lines(shop)) == 2
