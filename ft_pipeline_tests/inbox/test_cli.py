"""`ft inbox` as a user calls it."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner, Result

from ft_pipeline.audit.event_log_check import compare_with_event_log
from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.inbox.decisions import ledger
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.project import Project
from ft_pipeline_tests.inbox.served import QUESTION, RIGHT, WRONG, accepted_lines, call, new_project, said, write


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = new_project(tmp_path / "shop")
    monkeypatch.setenv("FT_PROJECT", str(project.root))
    monkeypatch.setenv("DAGSTER_HOME", str(project.dagster_home))
    return project


@pytest.fixture
def log(shop: Project) -> Path:
    folder = shop.root / "traffic"
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi [bold]there[/bold]"}]
    write(
        folder / "traces-2026-11-23.jsonl",
        call("chatcmpl-1", earlier=earlier, session_id="s1"),
        call("chatcmpl-2", "Do you ship to Malta?", "Yes, we do."),
        call("chatcmpl-3", "Hm?", "Yes."),
        call("chatcmpl-4", "No?", "Yes."),
        said("chatcmpl-1", 1, rating="down", correction=RIGHT, user="ann", comment="See the terms."),
        said("chatcmpl-2", 2, rating="up"),
        said("chatcmpl-3", 3, correction="Yes."),
        said("chatcmpl-4", 4, rating="down"),
        "{",
    )
    return folder


def ft(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["inbox", *arguments])


def ft_json(*arguments: str) -> Any:
    done = ft(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def error_of(*arguments: str) -> str:
    failure = ft(*arguments).exception
    assert isinstance(failure, UserError), failure
    return str(failure)


@pytest.mark.usefixtures("log")
def test_the_list_shows_proposals_checks_and_counts(shop: Project) -> None:
    shown = ft().stdout
    for text in ("chatcmpl-1", "s1, shop", QUESTION, WRONG, RIGHT, "ann", "chosen_equals_rejected"):
        assert text in shown
    assert "chatcmpl-2" not in shown
    assert "Rated up: 1 (list them with --rated-up)." in shown
    assert "Rated down and not corrected: 1 (list them with --rated-down)." in shown
    assert "Lines that cannot be read: 1.\n  traces-2026-11-23.jsonl, line 9: " in shown
    assert "(rated up)" in ft("--rated-up").stdout and "(rated down)" in ft("--rated-down").stdout
    document = ft_json("--rated-up")
    assert [entry["id"] for entry in document["proposals"]] == ["chatcmpl-3", "chatcmpl-2", "chatcmpl-1"]
    assert [entry["acceptable"] for entry in document["proposals"]] == [False, True, True]


@pytest.mark.usefixtures("log")
def test_show_prints_the_whole_conversation(shop: Project) -> None:
    shown = ft("show", "chatcmpl-1").stdout
    assert f"assistant: Hi [bold]there[/bold]\nuser: {QUESTION}\nassistant: {WRONG}\ncorrection: {RIGHT}\n" in shown
    assert "by ann. Checks: ok" in shown and "Comment: See the terms." in shown
    assert len(ft_json("show", "chatcmpl-1")["turns"]) == 4


@pytest.mark.usefixtures("log")
def test_accept_and_reject_are_recorded_and_shown_in_the_ui(shop: Project) -> None:
    done = ft("accept", "chatcmpl-1", "--reason", "right")
    assert done.exit_code == 0, done.output
    assert "Accepted 1. Added to data/raw/traces/accepted-" in done.stdout
    assert "Run `ft run` to build the tables." in done.stdout
    assert ft_json("reject", "chatcmpl-3")["rejected"] == ["chatcmpl-3"]
    assert [line.get("feedback", line)["id"] for line in accepted_lines(shop)] == ["chatcmpl-1", "chatcmpl-1"]
    assert ft_json()["proposals"] == []
    assert "No proposal is open." in ft().stdout
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("inbox"))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.metadata["proposals"].value == 2, "those that were rated"
    assert compare_with_event_log(shop, ArtifactIndex(shop.store))[1] == [], "it has no artifact"


@pytest.mark.usefixtures("log")
def test_all_takes_what_the_checks_accept(shop: Project) -> None:
    done = ft("accept", "--all", "--rated-up", "--json")
    assert json.loads(done.stdout)["accepted"] == ["chatcmpl-2", "chatcmpl-1"]
    assert "1 of 3 are left open" in done.stderr
    assert error_of("accept", "--all") == "No open proposal can be accepted. List them with `ft inbox`."
    assert len(ledger(shop.store).read()) == 1


@pytest.mark.usefixtures("log")
def test_errors_say_what_to_do(shop: Project) -> None:
    assert "The closest is 'chatcmpl-1'." in error_of("accept", "chatcmpl-11")
    assert "'chatcmpl-3' would not be used (chosen_equals_rejected" in error_of("accept", "chatcmpl-3")
    assert "Name ids of `ft inbox`, or use --all." in error_of("accept")
    assert "Name ids of `ft inbox`, or use --all." in error_of("accept", "chatcmpl-1", "--all")
    assert "Write them after it." in error_of("--rated-up", "accept", "--all")
    assert accepted_lines(shop) == []


def test_an_empty_log_says_how_to_get_one(shop: Project, tmp_path: Path) -> None:
    assert f"is empty. Run `ft serve --log {shop.root / 'traffic'}`." in ft().stdout
    other = tmp_path / "other"
    write(other / "traces-2026-11-23.jsonl", call("x"), said("x", 1, correction=RIGHT))
    assert [entry["id"] for entry in ft_json("--log", str(other))["proposals"]] == ["x"]
    done = ft("accept", "x", "--log", str(other))
    assert done.exit_code == 0, done.output
    assert not (shop.dagster_home / "storage").exists(), "the asset shows the log of project.yaml only"


def test_an_accepted_answer_that_is_rated_down_later_is_named(shop: Project, log: Path) -> None:
    assert ft_json("accept", "chatcmpl-2")["accepted"] == ["chatcmpl-2"]
    write(log / "traces-2026-11-24.jsonl", said("chatcmpl-2", 99, rating="down"))
    assert ft_json()["rated_down_later"] == ["chatcmpl-2"]
    assert "Accepted, and rated down since then: chatcmpl-2. Erase what is wrong with `ft erase`." in ft().stdout
