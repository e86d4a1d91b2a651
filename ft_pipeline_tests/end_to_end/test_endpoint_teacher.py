"""The teacher's assets against a server on loopback, as a user runs them: `ft run`, a real instance, a real worker."""

import html
import json
import re
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline_tests.distillation.fault_server import MODEL, FaultServer, serving
from ft_pipeline_tests.end_to_end.project import Finished, copy_of, current, ft, ft_json, run

pytestmark = pytest.mark.slow

KEY = "sk-a-secret-that-nobody-may-see"
VARIANTS = {"brief": {"system_prompt": "Be brief."}}
ASSETS = ("teacher_answers", "distilled", "prompt_baseline", "comparison", "decision", "recommendation")


def use_hosted_teacher(root: Path, server: FaultServer, **endpoint: object) -> None:
    """Make the server the project's teacher."""
    path = root / "project.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    about = {"url": server.url, "api_key_env": "TEACHER_KEY", "max_failed": 0.5, **endpoint}
    settings["teacher"].update(model=MODEL, endpoint=about, max_new_tokens=40)
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")


def files_with(secret: str, root: Path) -> list[str]:
    """Files below `root` that contain the secret, including Dagster's databases and compute logs."""
    return [str(path) for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.fixture
def shop(finished: Finished, tmp_path: Path) -> Path:
    return copy_of(finished, tmp_path)


@pytest.mark.long
def test_a_hosted_teacher_works_from_a_wrong_key_to_the_comparison(shop: Path) -> None:
    root = shop
    with serving(key=KEY, faults={"server_error": 0.1, "cut_off": 0.1}, seed=5) as server:
        use_hosted_teacher(root, server, prices={"input_per_million": 1000.0})
        wrong = run(root, *ASSETS, TEACHER_KEY="sk-wrong-key")
        assert wrong.returncode == 1
        assert "The teacher rejects all requests: HTTP 401: Incorrect key: Bearer ***" in wrong.stdout
        done = run(root, *ASSETS, TEACHER_KEY=KEY)
        assert done.returncode == 0, done.stdout + done.stderr
        # Settings that change no answer rebuild nothing; only the training, which was not selected, is out of date.
        use_hosted_teacher(
            root, server, prices={"input_per_million": 1000.0}, concurrency=3, budget={"tokens": 1_000_000}
        )
        again = json.loads(run(root, *ASSETS).stdout)["steps"]
        assert {(step["asset"], step["state"]) for step in again} == {
            ("comparison", "reused"),
            ("decision", "reused"),
            ("recommendation", "reused"),
        }
    for secret in (KEY, "sk-wrong-key"):
        assert files_with(secret, root) == []
        assert all(secret not in process.stdout + process.stderr for process in (wrong, done))
    _check_provenance(root, server)
    _check_the_teachers_scores(root)
    _check_the_cost_in_the_ui(root)


@pytest.mark.long
def test_a_contender_without_a_key_is_left_out_until_the_key_is_set(shop: Path) -> None:
    path = shop / "project.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    assets = ("comparison", "decision", "recommendation", "report")
    with serving(key=KEY) as server:
        prices = {"input_per_million": 1000.0}
        endpoint = {"url": server.url, "api_key_env": "HOSTED_KEY", "prices": prices, "max_failed": 0.0}
        contender = {"name": "today", "model": MODEL, "endpoint": endpoint, "incumbent": True, "ends": "2027-01-14"}
        newer = {"name": "newer", "model": "new", "endpoint": endpoint, "variants": VARIANTS}
        settings["evaluation"]["contenders"] = [contender, newer]
        path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        without = ft(shop, "run", "--select", ",".join(assets))
        assert without.returncode == 0, without.stdout + without.stderr
        sentence = "today was not asked, because the environment variable HOSTED_KEY is not set. Set it where you start"
        shown = [without.stdout, ft(shop, "compare").stdout, ft(shop, "recommend").stdout, _report(shop)]
        assert all(sentence in " ".join(text.split()) for text in shown)
        word_model, *contenders = sorted(ft_json(shop, "compare")["not_asked"], key=lambda one: "left out" not in one)
        assert word_model.startswith("word_model is left out: ")
        assert contenders == [
            f"{name}{sentence.removeprefix('today')} `ft run`, and run again." for name in ("today", "newer")
        ]
        planned = json.loads(ft(shop, "run", "--plan", "--json", HOSTED_KEY=KEY).stdout)["plan"]
        (reason,) = [step["reason"] for step in planned if step["asset"] == "comparison"]
        assert server.requests == 0
        counts = re.findall(r"contender (today|newer): (\d+) calls to 127\.0\.0\.1", reason)
        assert [name for name, _ in counts] == ["today", "newer"]
        with_key = run(shop, *assets, HOSTED_KEY=KEY)
        assert with_key.returncode == 0, with_key.stdout + with_key.stderr
        assert server.requests == sum(int(count) for _, count in counts)
    again = ft(shop, "run", "--select", ",".join(assets))  # the answers are kept, so no key is needed any more
    assert again.returncode == 0, again.stdout + again.stderr
    document = ft_json(shop, "compare")
    (row,) = [row for row in document["rows"] if row["name"] == "today"]
    assert (row["ends"], row["cost_per_call"]) == ("2027-01-14", pytest.approx(0.02))
    assert document["not_asked"] == [word_model]
    assert "ends on 2027-01-14" in _report(shop)
    table = ft(shop, "compare").stdout
    assert "2027-01-14" in table and "20.000" in table
    assert files_with(KEY, shop) == []


def _report(root: Path) -> str:
    return html.unescape((current(root, "report").path / "report.html").read_text(encoding="utf-8"))


def _check_the_teachers_scores(root: Path) -> None:
    document = current(root, "comparison").document("comparison.json")
    (row,) = [row for row in document["rows"] if row["kind"] == "teacher"]
    assert {"chrf", "rouge_l", "length_ratio"} <= set(row["scores"])
    assert "loss" not in row["scores"]
    assert row["cost_per_call"] == pytest.approx(0.02, rel=0.5)
    assert current(root, "recommendation").document("recommendation.json")["evidence"]["teacher"]["row"] == "teacher"


def _check_the_cost_in_the_ui(root: Path) -> None:
    """Progress is recorded in Dagster as numbers that its UI plots."""
    with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance:
        (record, *_) = instance.fetch_observations(dg.AssetKey("teacher_answers"), limit=1).records
    observation = record.asset_observation
    assert observation is not None
    assert {"answers_per_second", "cost", "failed", "tokens"} <= set(observation.metadata)


def _check_provenance(root: Path, server: FaultServer) -> None:
    answers, distilled = current(root, "teacher_answers"), current(root, "distilled")
    spent = answers.summary["spent"]
    assert answers.summary["prompts"] == 8 == answers.summary["answered_now"] + answers.summary["failed"]
    assert 8 <= spent["paid_requests"] + spent["failed_requests"].get("server_error", 0) <= server.requests
    rows = pq.read_table(distilled.path / "rows.parquet").to_pylist()
    assert rows
    host = server.url.removeprefix("http://").removesuffix("/v1")
    for row in rows:
        assert (row["teacher"], row["endpoint_host"]) == (MODEL, host)
        assert row["request_id"].startswith("req-")
        assert row["answered_at"].endswith("+00:00")
        assert (row["prompt_tokens"], row["answer_tokens"]) == (20, 10)
        assert len(row["template_sha256"]) == len(row["prompt_sha256"]) == len(row["teacher_fingerprint"]) == 64
        assert json.loads(row["sampling"])["max_new_tokens"] == 40
    aside = pq.read_table(distilled.path / "set_aside.parquet").to_pylist()
    assert len(rows) + len(aside) == 8
    finished = pq.read_table(answers.path / "answers.parquet")["finish_reason"].to_pylist()
    assert [row["code"] for row in aside].count("answer_cut_off") == finished.count("length")


@pytest.mark.long
def test_one_comparison_contains_experiments_with_and_without_the_teachers_rows(shop: Path) -> None:
    """Two experiments that differ only in the weight of the teacher's rows."""
    root = shop
    with_rows = root / "experiments" / "qlora.yaml"
    settings = yaml.safe_load(with_rows.read_text(encoding="utf-8"))
    for path, weight in ((with_rows, 1), (root / "experiments" / "human.yaml", 0)):
        path.write_text(yaml.safe_dump({**settings, "data": {"weights": {"distilled": weight}}}), encoding="utf-8")
    with serving() as server:
        use_hosted_teacher(root, server, api_key_env=None)
        done = ft(root, "run", "--experiment", "qlora", "--experiment", "human")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = {row["name"]: row["kind"] for row in ft_json(root, "compare")["rows"]}
    assert {"qlora/adapter", "qlora/merged", "human/adapter", "human/merged", "base", "teacher"} <= set(rows)
    query = "select experiment, count(*) filter (source = 'distilled'), count(*) filter (source = 'human') from "
    counts = {name: numbers for name, *numbers in ft_json(root, "sql", f"{query} training_rows group by all")["rows"]}
    ((kept,),) = ft_json(root, "sql", "select count(*) from distilled")["rows"]
    assert counts == {"qlora": [kept, counts["human"][1]], "human": [0, counts["human"][1]]}
    assert kept > 0
