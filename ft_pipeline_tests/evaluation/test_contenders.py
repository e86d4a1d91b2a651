"""Contenders: models behind endpoints and logged answers, scored by a real server and compared."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.rivals.score import run as score_rivals
from ft_pipeline.evaluation.scoring import prompt_baseline
from ft_pipeline.job import Job
from ft_pipeline.settings.contenders import ContenderSettings
from ft_pipeline.settings.evaluation import EvaluationSettings
from ft_pipeline_tests.decide.rules import leads
from ft_pipeline_tests.distillation.fault_server import FaultServer, answer_to, serving
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, JobMaker

TEST_ROWS = [row for row in CONVERSATIONS if row["split"] == "test"]
VARIANTS = {"plain": {}, "brief": {"system_prompt": "Be brief."}}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving(latency=0.01) as started:
        yield started


def hosted(make_job: JobMaker, server: FaultServer, folder: str = "hosted", **more: Any) -> Job:
    endpoint = server.teacher().model_dump(mode="json")["endpoint"]
    endpoint["prices"] = {"input_per_million": 1000.0, "output_per_million": 0.0}
    contender = {"name": "today", "model": server.teacher().model, "endpoint": endpoint, **more}
    return make_job("contender_scores", folder, contender=contender)


def logged(make_job: JobMaker, tmp_path: Path, lines: list[Mapping[str, Any]]) -> Job:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    job = make_job("contender_scores", "logged", contender={"name": "log", "answers": "x"}, answers_sha256=sha256)
    job.handling["answers"] = str(path)
    return job


def asked() -> list[dict[str, Any]]:
    """A logged line per answer of the test rows, as an application writes them: with a system turn of its own."""
    return [
        {
            "messages": [{"role": "system", "content": "You are the shop."}, *row["messages"][:turn]],
            "answer": f"answer {number}.{turn}",
        }
        for number, row in enumerate(TEST_ROWS)
        for turn in range(1, len(row["messages"]), 2)
    ]


def test_a_model_behind_an_endpoint_is_scored_under_its_own_prompts(make_job: JobMaker, server: FaultServer) -> None:
    job = hosted(make_job, server, variants=VARIANTS)
    rows = score_rivals(job)["rows"]
    assert [(row["name"], row["kind"]) for row in rows] == [("plain", "contender"), ("brief", "contender")]
    assert "nats_per_byte" not in rows[0]["scores"] and rows[0]["cost_per_call"] == pytest.approx(0.02)
    assert server.requests == 2 * 4
    assert {(body["temperature"], body["max_tokens"]) for body in server.bodies} == {(0.0, 8)}
    briefed = [body for body in server.bodies if body["messages"][0] == {"role": "system", "content": "Be brief."}]
    assert len(briefed) == 4
    score_rivals(job)
    assert server.requests == 2 * 4  # paid for once


def test_further_fields_are_sent_and_null_removes_one(make_job: JobMaker, server: FaultServer) -> None:
    score_rivals(hosted(make_job, server))
    job = hosted(make_job, server, "reasoning")
    job.config["contender"]["endpoint"]["extra_body"] = {"reasoning_effort": "none", "temperature": None}
    score_rivals(job)
    assert server.requests == 2 * 4  # other requests, so other answers
    plain, reasoning = server.bodies[0], server.bodies[-1]
    assert plain["temperature"] == 0.0 and "reasoning_effort" not in plain
    assert reasoning["reasoning_effort"] == "none" and "temperature" not in reasoning


def test_what_was_paid_for_is_kept_when_the_server_goes_away(make_job: JobMaker, server: FaultServer) -> None:
    score_rivals(hosted(make_job, server))
    paid = server.requests
    job = hosted(make_job, server, variants=VARIANTS)
    job.config["contender"]["endpoint"]["url"] = server.teacher().model_dump()["endpoint"]["url"]
    score_rivals(job)
    assert server.requests == paid + 4  # the variant without a prompt was in the log


def test_a_server_that_is_gone_is_named(make_job: JobMaker) -> None:
    with serving(latency=0.01) as server:
        job = hosted(make_job, server)
    job.config["contender"]["endpoint"] |= {"patience_seconds": 0, "attempts": 1, "timeout_seconds": 1}
    with pytest.raises(UserError, match=r"127\.0\.0\.1"):
        score_rivals(job)


def test_logged_answers_are_scored_without_a_call(make_job: JobMaker, tmp_path: Path) -> None:
    [row] = score_rivals(logged(make_job, tmp_path, asked()))["rows"]
    assert (row["name"], row["kind"], row["prompt_tokens_per_call"]) == ("plain", "contender", None)
    assert row["unanswered"] == 0


def test_a_single_question_may_be_written_as_a_query(make_job: JobMaker, tmp_path: Path) -> None:
    lines = [line for line in asked() if len(line["messages"]) > 2]
    lines += [{"query": row["messages"][0]["content"], "answer": "yes"} for row in TEST_ROWS]
    assert score_rivals(logged(make_job, tmp_path, lines))["test_items"] == 4


def test_a_log_without_an_answer_to_a_test_question_is_refused(make_job: JobMaker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answers.jsonl has no answer to 1 of 4 test questions, such as '"):
        score_rivals(logged(make_job, tmp_path, asked()[1:]))
    with pytest.raises(UserError, match=r"line 1 of answers.jsonl is not a logged answer. Write `answer`"):
        score_rivals(logged(make_job, tmp_path, [{"question": "?"}]))


def test_contenders_and_own_models_stand_in_one_table(make_job: JobMaker, server: FaultServer, tmp_path: Path) -> None:
    today, log = hosted(make_job, server, variants=VARIANTS), logged(make_job, tmp_path, asked())
    base = make_job("prompt_baseline", "own", prompting={"variants": {}})
    for job, run in ((today, score_rivals), (log, score_rivals), (base, prompt_baseline.run)):
        run(job)
    inputs = {
        "today/contender_scores": today.out,
        "log/contender_scores": log.out,
        "lora/prompt_baseline": base.out,
    }
    about = {"today": {"incumbent": True, "ends": "2027-01-14"}}
    (tmp_path / "out").mkdir()
    build_comparison(inputs, {"primary_metric": "auto", "contenders": about}, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    comparison = Comparison.model_validate(document)
    assert sorted(row.name for row in comparison.rows) == ["base", "log", "today", "today/brief"]
    assert {row.name: row.ends for row in comparison.rows if row.incumbent} == {
        "today": "2027-01-14",
        "today/brief": "2027-01-14",
    }
    assert comparison.left_out == []
    chrf = {frozenset((claim.row, claim.rival)) for claim in leads(comparison, "chrf")}
    assert len(chrf) == 6
    because = {entry.because for entry in comparison.incomparable if entry.metric == "nats_per_byte"}
    assert because == {"its server gives no likelihoods"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "x"}, "has none. Give one of `base_model`, `endpoint` and `answers`"),
        ({"name": "x", "answers": "a", "base_model": "b"}, "has `base_model` and `answers`"),
        ({"name": "x", "model": "m", "answers": "a"}, "`model` and `endpoint` belong together"),
        ({"name": "x", "answers": "a", "variants": {"plain": {}}}, "logged answers have no variants"),
        (
            {
                "name": "x",
                "model": "m",
                "endpoint": {"url": "http://127.0.0.1:1/v1"},
                "variants": {"facts": {"passages": 2}},
            },
            "`passages` are not retrieved for an endpoint",
        ),
    ],
)
def test_a_contender_has_one_source(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContenderSettings.model_validate(settings)


def test_contenders_have_names_of_their_own_and_one_is_in_use() -> None:
    first, second = ({"name": name, "answers": "a.jsonl", "incumbent": True} for name in ("a", "b"))
    with pytest.raises(ValueError, match="two contenders have the name 'a'"):
        EvaluationSettings.model_validate({"contenders": [first, {**first, "incumbent": False}]})
    with pytest.raises(ValueError, match="two contenders have `incumbent: true`"):
        EvaluationSettings.model_validate({"contenders": [first, second]})


def test_the_answers_are_those_of_the_server(make_job: JobMaker, server: FaultServer) -> None:
    import pyarrow.parquet as pq

    job = hosted(make_job, server)
    score_rivals(job)
    for sample in pq.read_table(job.out / "samples.parquet").to_pylist():
        assert sample["answer"] == answer_to(sample["prompt"].split("\n\n")[-1])
