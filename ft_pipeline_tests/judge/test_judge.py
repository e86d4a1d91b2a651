"""The worker of `judgements` against a real server: protocol, costs, kills, and judges that are of no use."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_pipeline.judge import judged_pairs
from ft_pipeline.judge.asking import Judge
from ft_pipeline.judge.pairs import hash_of_item
from ft_pipeline.judge.settings import JudgeSettings
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline_tests.distillation.fault_server import FaultServer, serving
from ft_pipeline_tests.evaluation.scored import ITEMS
from ft_pipeline_tests.judge.judging import (
    PAIR,
    answers_in,
    compared,
    judge_job,
    judged,
    likes_good,
    prefers,
    verdict,
)

OURS = [f"A good answer to {number}." for number in range(ITEMS)]
THEIRS = [f"An answer to {number}." for number in range(ITEMS)]
EQUAL = 10
"""The first answers of both models are equal."""


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return compared(tmp_path, [*THEIRS[:EQUAL], *OURS[EQUAL:]], THEIRS)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving(reply=prefers(likes_good)) as started:
        yield started


def test_every_pair_is_asked_in_both_orders(tmp_path: Path, inputs: dict[str, Path], server: FaultServer) -> None:
    summary, rows = judged(judge_job(tmp_path, inputs, server))
    assert len(rows) == ITEMS and server.requests == 2 * (ITEMS - EQUAL)
    assert {(row["candidate"], row["rival"]) for row in rows} == {PAIR}
    asked = [row for row in rows if row["candidate_answer"] != row["rival_answer"]]
    assert {(row["score"], row["first"], row["second"], row["unparsable"]) for row in asked} == {(1.0, 1.0, 1.0, 0)}
    equal = [row for row in rows if row not in asked]
    assert len(equal) == EQUAL and {row["score"] for row in equal} == {0.5}
    for row in asked:
        number = int(row["group"])
        assert row["item"] == f"{row['group']}:1"
        assert row["candidate_answer"] == hashlib.sha256(OURS[number].encode()).hexdigest()
        assert (row["candidate_bytes"], row["rival_bytes"]) == (len(OURS[number]), len(THEIRS[number]))
    assert {(body["temperature"], body["max_tokens"]) for body in server.bodies} == {(0.0, 300)}
    sent = [body["messages"][0]["content"] for body in server.bodies]
    assert not any(name in text for name in (*PAIR[:1], "merged", "champion") for text in sent)
    shown = Counter(likes_good(*answers_in(text)) for text in sent)
    assert shown == {True: ITEMS - EQUAL, False: ITEMS - EQUAL}
    assert (summary["calls"], summary["cost"]) == (60, pytest.approx(60 * 20 / 1000))
    report = summary["overall"]
    assert (report["judged"], report["identical"], report["same_in_both_orders"]) == (ITEMS, EQUAL, 1.0)
    assert report["win_rate"]["value"] == pytest.approx((30 + EQUAL / 2) / ITEMS)
    assert report["unparsable"] == 0 and summary["problem"] is None


def test_a_judge_that_prefers_the_first_answer_is_seen_and_says_nothing(
    tmp_path: Path, inputs: dict[str, Path], server: FaultServer
) -> None:
    server.reply = lambda prompt: verdict("1")
    summary, rows = judged(judge_job(tmp_path, inputs, server))
    assert {row["score"] for row in rows} == {0.5}
    report = summary["overall"]
    assert report["same_in_both_orders"] == 0.0
    wins = report["first_position_wins"]
    assert wins["value"] == 1.0 and 0.85 < wins["low"] < 0.95  # Wilson's bound of 30 conversations
    assert report["win_rate"]["value"] == 0.5


def test_a_judge_that_likes_length_is_seen(tmp_path: Path, server: FaultServer) -> None:
    long = [
        " ".join([text, *["and", "the", "next", "step", "follows", "by", "mail", "today"][: number % 5 + 3]])
        for number, text in enumerate(THEIRS)
    ]
    server.reply = prefers(lambda first, second: len(first) > len(second))
    half = ITEMS // 2
    ours, theirs = [*long[:half], *THEIRS[half:]], [*THEIRS[:half], *long[half:]]
    summary, _ = judged(judge_job(tmp_path, compared(tmp_path, ours, theirs), server))
    report = summary["overall"]
    assert report["win_rate"]["value"] == pytest.approx(0.5) and report["length_adjusted"] == pytest.approx(
        0.5, abs=0.05
    )
    summary, _ = judged(judge_job(tmp_path, compared(tmp_path / "all", long, THEIRS), server))
    assert summary["overall"]["win_rate"]["value"] == 1.0
    assert summary["overall"]["similar_length"] == {"judged": 0, "win_rate": None}


def test_ties_and_replies_without_a_verdict_are_half(
    tmp_path: Path, inputs: dict[str, Path], server: FaultServer
) -> None:
    good = prefers(likes_good)

    def reply(prompt: str) -> str:
        number = int(answers_in(prompt)[0].rstrip(".").rsplit(" ", 1)[1])
        if number % 3 == 0:
            return verdict("same")
        if number % 3 == 1 and likes_good(*answers_in(prompt)):
            return "I like both."
        return "Sorry." if number % 3 == 2 and "JSON only" not in prompt else good(prompt)

    server.reply = reply
    summary, rows = judged(judge_job(tmp_path, inputs, server))
    outcomes = {
        int(row["group"]) % 3: (row["score"], row["first"], row["second"], row["unparsable"])
        for row in rows
        if int(row["group"]) >= EQUAL
    }
    assert outcomes == {0: (0.5, 0.5, 0.5, 0), 1: (0.75, 0.5, 1.0, 1), 2: (1.0, 1.0, 1.0, 0)}
    of_each = Counter(int(row["group"]) % 3 for row in rows if int(row["group"]) >= EQUAL)
    assert server.requests == 60 + of_each[1] + 2 * of_each[2]  # once more each, and no more
    assert summary["overall"]["unparsable"] == pytest.approx(of_each[1] / 60)
    paid = server.requests
    assert judged(judge_job(tmp_path, inputs, server))[1] == rows and server.requests == paid


def test_rows_are_the_first_in_the_order_of_a_hash(
    tmp_path: Path, inputs: dict[str, Path], server: FaultServer
) -> None:
    _, few = judged(judge_job(tmp_path, inputs, server, rows=12))
    first = sorted((f"{number:03}:1" for number in range(ITEMS)), key=hash_of_item)[:12]
    assert [row["item"] for row in few] == first
    paid = server.requests
    _, more = judged(judge_job(tmp_path, inputs, server, rows=13))
    assert more[:12] == few and server.requests <= paid + 2


def test_a_budget_keeps_what_was_paid_for_and_says_what_was_not_asked(
    tmp_path: Path, inputs: dict[str, Path], server: FaultServer
) -> None:
    job = judge_job(tmp_path, inputs, server, budget={"tokens": 1500})
    summary, rows = judged(job)
    missing = ITEMS - len(rows)
    assert 0 < missing < ITEMS - EQUAL
    assert summary["problem"].startswith(
        f"The judge has no verdict on {missing} of {ITEMS} pairs of answers: budget.tokens 1,500 leaves no room"
    )
    assert "Raise evaluation.judge.budget.tokens" in summary["problem"] and summary["problem"] in job.report.lines
    assert not summary["incomplete"]  # the same budget would end it again
    assert summary["spent"]["prompt_tokens"] + summary["spent"]["answer_tokens"] <= 1500
    paid = server.requests
    summary, rows = judged(judge_job(tmp_path, inputs, server))
    assert len(rows) == ITEMS and server.requests == 60 and paid < 60


@pytest.mark.long
def test_a_kill_loses_no_verdict_and_pays_for_none_twice(tmp_path: Path, inputs: dict[str, Path]) -> None:
    with serving(reply=prefers(likes_good), latency=0.05) as server:
        job = judge_job(tmp_path, inputs, server)
        process = multiprocessing.get_context("spawn").Process(target=judged_pairs.run, args=(job,))
        process.start()
        while server.requests < 20 and process.is_alive():
            time.sleep(0.005)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        _, rows = judged(judge_job(tmp_path, inputs, server))
        twice = [prompt for prompt, times in server.answered.items() if times > 1]
    assert len(rows) == ITEMS and len(server.answered) == 60
    assert len(twice) <= 4  # those that were under way


def test_a_judge_that_talks_nonsense_is_not_asked_further(
    tmp_path: Path, inputs: dict[str, Path], server: FaultServer
) -> None:
    server.reply = lambda prompt: "As an AI, I find both answers lovely."
    summary, rows = judged(judge_job(tmp_path, inputs, server))
    assert "none of its first 20 replies is a verdict. Choose another evaluation.judge.model" in summary["problem"]
    assert server.requests == 40 and {row["score"] for row in rows} == {0.5}
    paid = server.requests
    judged(judge_job(tmp_path, inputs, server))
    assert server.requests == paid


def test_a_judge_that_goes_away_keeps_its_verdicts(tmp_path: Path, inputs: dict[str, Path]) -> None:
    with serving(reply=prefers(likes_good)) as server:
        _, few = judged(judge_job(tmp_path, inputs, server, rows=12))
    summary, rows = judged(judge_job(tmp_path, inputs, server, {"attempts": 1, "timeout_seconds": 1}))
    assert rows[: len(few)] == few and len(rows) < ITEMS
    assert "cannot be reached" in summary["problem"] and "what was paid for is kept" in summary["problem"]
    assert summary["incomplete"]


def test_a_judge_without_a_key_is_not_asked(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serving(key="sk-secret", reply=prefers(likes_good)) as server:
        job = judge_job(tmp_path, inputs, server, {"api_key_env": "JUDGE_KEY"}, not_asked="JUDGE_KEY is not set")
        summary, rows = judged(job)
        assert server.requests == 0
        assert {row["score"] for row in rows} == {0.5} and len(rows) == EQUAL
        assert "30 of 40 pairs of answers: JUDGE_KEY is not set." in summary["problem"]
        monkeypatch.setenv("JUDGE_KEY", "sk-wrong")
        summary, _ = judged(judge_job(tmp_path, inputs, server, {"api_key_env": "JUDGE_KEY"}))
        assert "The judge rejects all requests: HTTP 401: Incorrect key: Bearer ***" in summary["problem"]
        assert "evaluation.judge.endpoint and its API key" in summary["problem"]
        monkeypatch.setenv("JUDGE_KEY", "sk-secret")
        assert len(judged(judge_job(tmp_path, inputs, server, {"api_key_env": "JUDGE_KEY"}))[1]) == ITEMS
    written = [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-" in path.read_bytes()]
    assert written == []


def test_failed_requests_are_asked_again_by_the_next_run(tmp_path: Path, inputs: dict[str, Path]) -> None:
    with serving(reply=prefers(likes_good), faults={"server_error": 0.5}, seed=3) as server:
        summary, rows = judged(judge_job(tmp_path, inputs, server, {"attempts": 1}))
        assert summary["incomplete"] and len(rows) < ITEMS
        assert "because requests failed. Run again" in summary["problem"]
        server.faults = {}
        assert len(judged(judge_job(tmp_path, inputs, server))[1]) == ITEMS


def test_replies_are_kept_for_people_and_for_erasure(
    tmp_path: Path, inputs: dict[str, Path], server: FaultServer
) -> None:
    job = judge_job(tmp_path, inputs, server, rows=15)
    judged(job)
    replies = pq.read_table(job.out / "replies.parquet").to_pylist()
    assert len(replies) == server.requests and {reply["order"] for reply in replies} == {1, 2}
    assert all(json.loads(reply["answer"])["reason"] and reply["request_id"] for reply in replies)
    [log] = tmp_path.glob("*/log.jsonl")
    assert log.parent.name.startswith("judge-")  # a teacher of the same name has a budget of its own


def test_the_plan_names_host_calls_tokens_and_price(
    tmp_path: Path, inputs: dict[str, Path], server: FaultServer
) -> None:
    summary, _ = judged(judge_job(tmp_path, inputs, server))
    host = server.url.removeprefix("http://").removesuffix("/v1")
    assert summary["plan"].startswith(f"judge big-teacher: up to 60 calls to {host} with test rows and answers, about ")
    assert "at most 18,000 of replies), at most about " in summary["plan"]
    free = JudgeSettings.model_validate({"model": "m", "endpoint": {"url": server.url}})
    assert Judge(free, "").plan([]).endswith("no prices given")


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ({"model": "m"}, "endpoint"),
        ({"model": "m", "endpoint": {"url": "http://h/v1", "budget": {"tokens": 5}}}, "Move `endpoint.budget` there"),
        (
            {"model": "m", "endpoint": {"url": "http://h/v1"}, "budget": {"money": 5}},
            "Set `evaluation.judge.endpoint.prices`",
        ),
        ({"model": "m", "endpoint": {"url": "http://h/v1", "api_key_env": "sk-abc"}}, "not to the key"),
        ({"model": "m", "endpoint": {"url": "http://h/v1"}, "rows": 0}, "rows"),
    ],
)
def test_bad_settings_are_named(judge: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProjectSettings.model_validate({"name": "x", "evaluation": {"judge": judge}})
