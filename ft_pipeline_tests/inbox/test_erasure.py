"""An accepted call is erased like any row, also from what the UI showed of the inbox."""

from pathlib import Path

import pytest

from ft_pipeline_tests.end_to_end.project import ft, ft_json
from ft_pipeline_tests.erasure.traces import traces, unknown_files
from ft_pipeline_tests.inbox.served import call, new_project, said, write

ASKED, ANSWERED, CORRECTED = (
    "Where does Thusnelda Grünwald want her lamp to be sent to?",
    "The lamp goes to the Quittenweg Lane in Leeds, as always.",
    "The lamp goes to the Zwiebelhorn in Bern from now on.",
)
LOG = "traffic/traces-2026-11-23.jsonl"


@pytest.mark.long
def test_erasing_an_accepted_call_removes_it_from_everything_but_the_log(tmp_path: Path) -> None:
    project = new_project(tmp_path / "shop")
    write(project.root / LOG, call("a", ASKED, ANSWERED), said("a", 1, correction=CORRECTED))
    write(project.root / LOG, call("b", "Are you open?", "No."), said("b", 1, correction="Yes, until six."))
    ft_json(project.root, "inbox", "reject", "b")  # the UI shows `a`
    ft_json(project.root, "inbox", "accept", "a")
    ft_json(project.root, "run", "--select", "raw_traces,raw_preferences,traces,preferences")
    (path,) = project.raw_folder("traces").glob("*")
    texts = (ASKED, ANSWERED, CORRECTED, "Thusnelda", "Zwiebelhorn", "Quittenweg Lane")
    assert len(traces(project.root, *texts)) >= 5  # log, raw file, its copy, tables, Dagster's log
    result = ft_json(project.root, "erase", str(path), "1", "--reason", "request 12")
    assert len(result["rows"]) >= 2, "the call and its feedback"
    assert traces(project.root, *texts) == [LOG]
    assert any(LOG in note for note in result["notes"])
    assert unknown_files(project.root, tmp_path) == []
    assert "Zwiebelhorn" not in ft(project.root, "inbox").stdout
    write(project.root / LOG, said("a", 9, correction="To Bern."))
    (proposal,) = ft_json(project.root, "inbox")["proposals"]
    assert proposal["reason"].startswith("removed: ")
