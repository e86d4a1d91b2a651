"""2,000 prompts, a fifth of the requests failing, two kills: every prompt is answered once or set aside with its
reason, and the log counts the paid requests as the server does."""

import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.distillation import teacher
from ft_pipeline.job import Job
from ft_pipeline_tests.distillation.fault_server import FaultServer, answer_to, serving
from ft_pipeline_tests.distillation.material import teacher_job, write_conversations, write_unlabelled

FAULTS = {
    "rate_limited": 0.05,
    "server_error": 0.04,
    "connection_lost": 0.03,
    "broken_reply": 0.03,
    "cut_off": 0.02,
    "timeout": 0.01,
    "empty": 0.01,
    "wrong_model": 0.01,
}
CONCURRENCY = 32
PROMPTS = [f"The parcel of order {number} is late. When will it be here?" for number in range(2000)]


def run_until(job: Job, server: FaultServer, requests: int) -> None:
    """Run the job in a separate process and kill it once the server has received this many requests."""
    process = multiprocessing.get_context("spawn").Process(target=teacher.run, args=(job,))
    process.start()
    deadline = time.monotonic() + 120
    while server.requests < requests and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.long
def test_two_kills_lose_no_answer_and_pay_for_none_twice(tmp_path: Path) -> None:
    inputs = {
        "unlabelled": write_unlabelled(tmp_path / "unlabelled", PROMPTS),
        "conversations": write_conversations(tmp_path / "conversations"),
    }
    with serving(faults=FAULTS, latency=0.01, hang=5, seed=11) as server:
        endpoint = {"concurrency": CONCURRENCY, "timeout_seconds": 0.8, "attempts": 6}
        settings = server.teacher(endpoint).model_dump(mode="json")
        job = teacher_job(tmp_path, inputs, **settings)
        for requests in (700, 1500):
            run_until(job, server, requests)
        before = server.requests
        summary = teacher.run(job)
        rows = pq.read_table(job.out / "answers.parquet").to_pylist()

    assert [row["prompt_messages"][-1]["content"] for row in rows] == PROMPTS
    outcomes = Counter(row["finish_reason"] for row in rows)
    answered = [row for row in rows if row["finish_reason"] == "stop" and row["answer"]]
    assert all(row["answer"] == answer_to(PROMPTS[row["row"] - 1]) for row in answered)
    assert all(row["failure"] for row in rows if row not in answered)
    assert len(answered) > 1900
    assert outcomes["length"] > 20

    # The third run did not request the answers that the two killed runs had received.
    assert summary["known_before"] + summary["answered_now"] + summary["failed"] == 2000
    assert summary["known_before"] > 900
    assert server.requests - before < 1300
    # Only requests that were in progress at a kill are answered a second time.
    twice = {prompt: times for prompt, times in server.answered.items() if times > 1}
    assert set(twice.values()) <= {2, 3}
    assert len(twice) <= 2 * CONCURRENCY

    spent = summary["spent"]
    print(json.dumps({**spent, "server": {"requests": server.requests, "paid": server.paid, "twice": len(twice)}}))
    assert 0 <= spent["requests"] - server.requests <= 2 * CONCURRENCY  # logged, but killed before it was sent
    assert spent["paid_requests"] <= server.paid <= spent["paid_requests"] + spent["perhaps_paid_requests"]
    assert spent["answers"] == len(answered)
