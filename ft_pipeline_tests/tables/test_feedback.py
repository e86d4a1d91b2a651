"""The format of answers with a thumb: how thumbs are written, which rows are set aside, and thumbs in traces."""

import json
import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.formats.convert import convert
from ft_pipeline.tables.formats.registry import FORMATS, name_elsewhere
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.row_texts import longest_rows
from ft_pipeline_tests.tables.helpers import TRACK, TRACK_TOOL, build, logged_call, validate, write_jsonl

DATA = Path(__file__).parents[2] / "data"
FEEDBACK = FORMATS["feedback"]
ASK, ANSWER = {"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "With the carrier."}


def read(row, sidecar=None):
    """The record of a row by column, or its fault."""
    record = convert(FEEDBACK, row, sidecar or Sidecar())
    return record if isinstance(record, Fault) else dict(zip(FEEDBACK.column_names, record, strict=True))


def thumb(prompt, answer, label):
    return {"prompt": prompt, "completion": answer, "label": label}


@pytest.mark.parametrize(
    ("label", "is_good"),
    [
        *(
            (label, True)
            for label in (True, 1, 1.0, "1", "+1", "up", "Thumbs up", "thumbs_up", "👍", "👍🏽", "good", "TRUE")
        ),
        *(
            (label, False)
            for label in (False, 0, -1, -1.0, "0", "-1", "down", "thumbs-down", "👎", "bad", "dislike", "no")
        ),
    ],
)
def test_the_usual_spellings_of_a_thumb_are_read(label, is_good):
    assert read(thumb("Where is it?", "With the carrier.", label))["label"] is is_good


@pytest.mark.parametrize(
    ("label", "code"),
    [
        (None, "unrated"),
        ("", "unrated"),
        (5, "unknown_label"),
        (0.5, "unknown_label"),
        ("meh", "unknown_label"),
        ([1], "unknown_label"),
    ],
)
def test_a_rating_that_is_no_thumb_is_a_fault(label, code):
    fault = read(thumb("Where is it?", "With the carrier.", label))
    assert isinstance(fault, Fault) and fault.code == code
    unrated = read({"prompt": "Where is it?", "completion": "With the carrier."})
    assert isinstance(unrated, Fault) and unrated.code == "missing_label"


def test_a_conversation_ends_with_the_answer_that_was_rated():
    call = {"role": "assistant", "tool_calls": [TRACK], "weight": 0}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "On its way."}
    row = read(
        {"messages": [ASK, call, result, ANSWER], "system": "Be brief.", "tools": [TRACK_TOOL], "kto_tag": False}
    )
    assert [turn["role"] for turn in row["prompt_messages"]] == ["system", "user", "assistant", "tool"]
    assert row["completion"] == [ANSWER] and row["label"] is False
    assert json.loads(row["tools"]) == [TRACK_TOOL]
    assert not any("weight" in turn for turn in row["prompt_messages"])
    unanswered = read({"messages": [ANSWER, ASK], "label": True})
    assert isinstance(unanswered, Fault) and unanswered.code == "first_turn_not_human"


def test_trl_s_turns_and_a_sidecar_are_read():
    assert read({"prompt": [ASK], "completion": [ANSWER], "label": True})["completion"] == [ANSWER]
    sidecar = Sidecar.model_validate({"columns": {"question": "prompt", "reply": "completion", "thumb": "label"}})
    row = read({"question": "Where is it?", "reply": "With the carrier.", "thumb": "down"}, sidecar)
    assert row["prompt_messages"] == [ASK] and row["label"] is False
    # The other direction, as LLaMA-Factory has it, still reads a column that is named like one of ours.
    assert Sidecar.model_validate({"columns": {"output": "completion"}}).columns == {"completion": "output"}


def test_csv_files_are_read(tmp_path):
    path = tmp_path / "export.csv"
    path.write_text(
        "prompt,completion,rating\nWhere is it?,With the carrier.,1\nWhen is it?,No idea.,-1\nWho?,Nobody.,\n"
    )
    report = validate(path, "feedback")
    assert (report["accepted"], report["reasons"]) == (2, {"unrated": [3]})


def test_thumbs_that_disagree_are_set_aside_and_bad_answers_may_be_anything(tmp_path):
    rows = [
        thumb("Where is it?", "With the carrier.", True),
        thumb("Where is it?", "with the carrier", False),
        thumb("Where is it?", "With the carrier.", True),
        thumb("Where is it?", "I'm sorry, but as an AI language model I cannot help with that.", False),
        thumb("Where is it?", "Where is it?", False),
    ]
    report = build(tmp_path, "feedback", {"a.jsonl": rows}, max_quarantined=0.1)
    assert report.checks["quarantined_share"].passed  # disagreement says nothing of the file
    aside = pq.read_table(tmp_path / "out" / "set_aside.parquet").to_pylist()
    assert {(row["row"], row["code"], row["copy_of"]) for row in aside} == {
        (2, "contradicting_feedback", "a.jsonl:1"),
        (3, "duplicate", "a.jsonl:1"),
    }
    kept = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert [(row["row"], row["label"]) for row in kept] == [(1, True), (4, False), (5, False)]
    both = build(tmp_path, "feedback", {"a.jsonl": rows}, sidecars={"a.jsonl": {"allow": ["contradicting_feedback"]}})
    assert both.accepted == 4


def test_thumbs_in_traces_become_rows(tmp_path):
    cut_off = logged_call("Why is it late?", "Because the", id="cut", finish_reason="length")
    lines = [
        logged_call("Where is it?", "With the carrier.", id="good"),
        logged_call("When is it?", "No idea.", id="bad"),
        logged_call("Who brings it?", "A driver.", id="corrected"),
        logged_call("How is it?", "Fine.", id="unrated"),
        cut_off,
        {"feedback": {"id": "good", "rating": "up"}},
        {"feedback": {"id": "bad", "rating": "down"}},
        {"feedback": {"id": "corrected", "rating": "down", "correction": "The post."}},
        {"feedback": {"id": "cut", "rating": "down"}},
    ]
    path = write_jsonl(tmp_path / "log.jsonl", lines)
    name = name_elsewhere("traces", "log.jsonl")
    report = build_table("feedback", [SourceFile(name, path, "")], tmp_path / "out", max_quarantined=0.1)
    assert (report.accepted, report.quarantined) == (3, 0)
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    found = {row["prompt_messages"][0]["content"]: (row["completion"][0]["content"], row["label"]) for row in rows}
    assert found == {
        "Where is it?": ("With the carrier.", True),
        "When is it?": ("No idea.", False),
        "Who brings it?": ("A driver.", False),
    }
    assert all("rated up" not in (row["tags"] or ()) for row in rows)


def test_a_log_of_answers_that_were_all_rated_down_is_sound(tmp_path):
    lines = [logged_call("Where is it?", "No idea.", id="bad"), {"feedback": {"id": "bad", "rating": "down"}}]
    for table, accepted in (("traces", 0), ("feedback", 1)):
        path = write_jsonl(tmp_path / "log.jsonl", lines)
        name = "log.jsonl" if table == "traces" else name_elsewhere("traces", "log.jsonl")
        report = build_table(table, [SourceFile(name, path, "")], tmp_path / table, max_quarantined=0.1)
        assert report.passed and report.accepted == accepted


def test_ft_inspect_shows_prompt_and_answer(tmp_path):
    build(
        tmp_path,
        "feedback",
        {"a.jsonl": [thumb("Where is it?", "With the carrier.", True), thumb("Who?", "Me.", False)]},
    )
    rows = longest_rows(tmp_path / "out" / "rows.parquet", "feedback", 5).to_pylist()
    assert [(row["prompt"], row["answer"]) for row in rows] == [("Where is it?", "With the carrier."), ("Who?", "Me.")]


def test_the_shipped_thumbs_are_what_the_script_makes_and_all_are_used():
    path = DATA / "raw" / "feedback" / "thumbs.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == runpy.run_path(str(DATA / "make_thumbs.py"))["rows"]()
    report = validate(path, "feedback")
    assert (report["accepted"], report["reasons"]) == (304, {})
