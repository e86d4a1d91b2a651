"""A judge as a user meets it: the plan with its costs, `ft run` without and with the key, the page, erasure."""

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline_tests.distillation.fault_server import MODEL, FaultServer, serving
from ft_pipeline_tests.end_to_end.project import (
    Finished,
    copy_of,
    current,
    ft,
    ft_json,
    run,
    small_project,
    write_experiment,
)
from ft_pipeline_tests.judge.judging import prefers

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.waits]

KEY = "sk-a-secret-that-nobody-may-see"
AFTER = ("judgements", "comparison", "decision", "recommendation", "report")


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A small project whose tuned model is trained enough to answer something, after its first run."""
    root = small_project(tmp_path_factory.mktemp("judged") / "shop")
    write_experiment(root, "qlora", root / "models" / "tiny", technique="full", epochs=6, learning_rate=0.01)
    done = ft(root, "run", "--experiment", "qlora")
    assert done.returncode == 0, done.stderr[-4000:]
    return Finished(root)


@pytest.fixture
def shop(answering: Finished, tmp_path: Path) -> Path:
    return copy_of(answering, tmp_path)


def use_judge(root: Path, server: FaultServer, **more: Any) -> None:
    path = root / "project.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    endpoint = {"url": server.url, "api_key_env": "JUDGE_KEY", "prices": {"input_per_million": 1000.0}}
    endpoint |= {"attempts": 1, "patience_seconds": 0.0}
    settings["evaluation"]["judge"] = {"model": MODEL, "endpoint": endpoint, **more}
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")


def planned(root: Path, asset: str = "judgements", **environment: str) -> dict[str, Any]:
    plan = json.loads(ft(root, "run", "--plan", "--json", **environment).stdout)["plan"]
    [step] = [step for step in plan if step["asset"] == asset]
    return step


def test_a_judge_from_the_plan_to_the_comparison(shop: Path) -> None:
    assert AssetPointers(shop / "data" / "store").read("judgements") is None  # not in the graph without a judge
    assert "judgements" not in current(shop, "comparison").inputs
    with serving(key=KEY, reply=prefers(lambda first, second: len(first) > len(second))) as server:
        use_judge(shop, server)
        _is_left_out_without_a_key(shop)
        assert server.requests == 0
        reason = planned(shop, JUDGE_KEY=KEY)["reason"]
        found = re.search(
            r"judge big-teacher: up to (\d+) calls to 127\.0\.0\.1:\d+ with test rows and answers", reason
        )
        assert found is not None and "by its prices" in reason
        assert "calls to" in ft(shop, "run", "--plan", JUDGE_KEY=KEY).stdout
        with_key = ft(shop, "run", "--select", ",".join(AFTER), JUDGE_KEY=KEY)
        assert with_key.returncode == 0, with_key.stdout + with_key.stderr
        assert f"sends: {found[0]}" in with_key.stdout + with_key.stderr
        assert 0 < server.requests == int(found[1])
        summary = current(shop, "judgements").summary
        assert summary["problem"] is None and summary["excluded"] == [] and summary["cost"] > 0
        rows = pq.read_table(current(shop, "judgements").path / "judgements.parquet").to_pylist()
        assert {row["candidate"] for row in rows} >= {"qlora/merged"}
        assert current(shop, "comparison").inputs["judgements"] == current(shop, "judgements").reference
        assert "JUDGE_KEY" not in " ".join(ft_json(shop, "compare")["not_asked"])
        assert planned(shop)["state"] == "fresh"  # all verdicts are kept, so no key is needed any more
    again = ft(shop, "run", "--select", ",".join(AFTER))
    assert again.returncode == 0, again.stdout + again.stderr
    assert ft(shop, "audit", "--verify").returncode == 0
    _page_shows_the_verdicts(shop)
    assert [path for path in shop.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_a_judge_that_goes_away_stops_nothing_and_is_asked_again(shop: Path) -> None:
    with serving(reply=prefers(lambda first, second: len(first) > len(second))) as server:
        use_judge(shop, server, model="tiny")
        _edit_endpoint(shop, api_key_env=None)
    gone = run(shop, *AFTER)
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert any("cannot be reached" in line for line in ft_json(shop, "compare")["not_asked"])
    summary = current(shop, "judgements").summary
    assert summary["incomplete"]
    assert "the base model of a compared model" in " ".join(summary["excluded"])
    with serving(reply=prefers(lambda first, second: len(first) > len(second))) as server:
        assert planned(shop)["state"] == "stale"
        _edit_endpoint(shop, url=server.url)
        assert run(shop, *AFTER).returncode == 0
        assert server.requests > 0 and current(shop, "judgements").summary["problem"] is None
    assert planned(shop)["state"] == "fresh"


def test_the_first_run_says_where_rows_go_before_anything_is_scored(shop: Path) -> None:
    with serving(key=KEY) as server:
        use_judge(shop, server, rows=5)
        path = shop / "experiments" / "qlora.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace("num_train_epochs: 6", "num_train_epochs: 7"))
        reason = planned(shop, JUDGE_KEY=KEY)["reason"]
    host = server.url.removeprefix("http://").removesuffix("/v1")
    assert f"judge big-teacher: test rows and answers go to {host}, at most 80 calls;" in reason


def test_replies_about_an_erased_row_are_erased(shop: Path) -> None:
    with serving(reply=lambda prompt: '{"reason": "It quotes SECRET-4711.", "better": "1"}') as server:
        use_judge(shop, server)
        _edit_endpoint(shop, api_key_env=None)
        assert run(shop, *AFTER).returncode == 0
    artifact = current(shop, "judgements")
    replies = pq.read_table(artifact.path / "replies.parquet").to_pylist()
    group = replies[0]["group"]
    conversations = pq.read_table(current(shop, "conversations").path / "rows.parquet").to_pylist()
    [row] = [row for row in conversations if row["id"] == group]
    file = f"data/raw/{row['table']}/{row['file']}"
    erased = ft(shop, "erase", file, str(row["row"]), "--reason", "a request")
    assert erased.returncode == 0, erased.stdout + erased.stderr
    [log] = (shop / "data" / "store" / "teachers").glob("judge-*/log.jsonl")
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    gone = {reply["request_id"] for reply in replies if reply["group"] == group}
    assert gone and not gone & {event.get("request_id") for event in events}
    assert ft(shop, "audit", "--verify").returncode == 0


def _edit_endpoint(root: Path, **changes: Any) -> None:
    path = root / "project.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["evaluation"]["judge"]["endpoint"].update(changes)
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")


def _is_left_out_without_a_key(root: Path) -> None:
    without = ft(root, "run", "--select", ",".join(AFTER))
    assert without.returncode == 0, without.stdout + without.stderr
    sentence = "pairs of answers: the environment variable JUDGE_KEY is not set. Set it where you start `ft run`"
    report = (current(root, "report").path / "report.html").read_text(encoding="utf-8")
    for text in (without.stdout, ft(root, "compare").stdout, ft(root, "recommend").stdout, report):
        assert sentence in " ".join(text.split())
    assert "calls to 127.0.0.1" in current(root, "judgements").summary["plan"]
    assert planned(root)["state"] == "fresh"


def _page_shows_the_verdicts(root: Path) -> None:
    with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("judgements"))
        assert event is not None and event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
    assert {"judge", "verdicts", "plan", "calls", "cost", "rubric"} <= set(metadata)
    [overall, *pairs] = [row for row in metadata["all_verdicts"].value if isinstance(row, dict)]  # type: ignore[union-attr]
    assert overall["candidate"] == "all" and len(pairs) >= 2
    assert all(pair["same in both orders"] for pair in pairs if pair["equal answers"] < pair["judged"])
    pointers = AssetPointers(root / "data" / "store")
    assert pointers.read("judgements", None) is not None
