"""Requests to a real server on loopback that fails in every way that the rules cover."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from ft_pipeline.distillation.endpoint_teacher import answer_columns, text_columns
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.errors import UserError
from ft_pipeline.models.endpoint import chat_completions, request_loop
from ft_pipeline.models.endpoint.answer_log import AnswerLog, erase_answers
from ft_pipeline.models.endpoint.chat_completions import Endpoint
from ft_pipeline.models.endpoint.rate_limits import Pace
from ft_pipeline.models.endpoint.request_loop import ChatRequest, RequestTotals, send_all
from ft_pipeline.models.endpoint.responses import RULES, Spending
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline_tests.distillation.fault_server import ANSWER_TOKENS, PROMPT_TOKENS, FaultServer, answer_to, serving
from ft_pipeline_tests.distillation.material import Recorder, user

KEY = "sk-a-secret-that-nobody-may-see"
PROMPTS = [f"My order {number} has not arrived, what now?" for number in range(60)]


def requests_for(teacher: TeacherSettings, prompts: Sequence[str] = PROMPTS) -> list[ChatRequest]:
    return [TeacherPrompt(teacher, []).request(user(text)) for text in prompts]


def ask(
    folder: Path, teacher: TeacherSettings, prompts: Sequence[str] = PROMPTS, key: str | None = None
) -> tuple[RequestTotals, Spending, list[dict]]:
    """Send the prompts, and return the totals, the spending so far and the outcome of each prompt."""
    requests = requests_for(teacher, prompts)
    with AnswerLog.open(folder, lambda message: None) as log:
        totals = send_all(lambda: Endpoint(teacher, key), log, requests, len(requests), teacher, Recorder())
        return totals, log.spent, [answer_columns(log, request) for request in requests]


def test_every_prompt_gets_its_own_answer(tmp_path: Path) -> None:
    with serving() as server:
        totals, spent, answers = ask(tmp_path, server.teacher(temperature=0.5, seed=7))
    assert [answer["answer"] for answer in answers] == [answer_to(prompt) for prompt in PROMPTS]
    assert (totals.answered, totals.failed, spent.paid, spent.perhaps_paid) == (60, 0, 60, 0)
    assert spent.tokens == 60 * (PROMPT_TOKENS + ANSWER_TOKENS)
    assert all(answer["request_id"].startswith("req-") and answer["reply_model"] for answer in answers)
    sent = server.bodies[0]
    assert {key: sent[key] for key in ("model", "temperature", "max_tokens", "seed")} == {
        "model": "big-teacher",
        "temperature": 0.5,
        "max_tokens": 40,
        "seed": 7,
    }


def test_answers_in_the_log_are_not_requested_again(tmp_path: Path) -> None:
    with serving() as server:
        teacher = server.teacher()
        ask(tmp_path, teacher, PROMPTS[:40])
        totals, spent, _ = ask(tmp_path, teacher)
        assert (totals.known, totals.answered, server.requests, spent.paid) == (40, 20, 60, 60)
        # Other sampling settings make a different request.
        totals, _, _ = ask(tmp_path, server.teacher(temperature=0.9), PROMPTS[:5])
        assert (totals.known, totals.answered) == (0, 5)


def test_each_sample_of_a_prompt_is_a_separate_request(tmp_path: Path) -> None:
    with serving() as server:
        teacher = server.teacher(temperature=0.8, seed=4, answers_per_prompt=3)
        requests = [TeacherPrompt(teacher, []).request(user(PROMPTS[0]), sample) for sample in range(3)]
        with AnswerLog.open(tmp_path, lambda message: None) as log:
            send_all(lambda: Endpoint(teacher, None), log, requests, 3, teacher, Recorder())
        assert sorted(body["seed"] for body in server.bodies) == [4, 5, 6]
        assert len({request.key for request in requests}) == server.requests == 3


def test_concurrency_limits_the_requests_at_once(tmp_path: Path) -> None:
    with serving(latency=0.01, slots=500) as server:
        ask(tmp_path, server.teacher({"concurrency": 7}))
        assert 1 < server.most_at_once <= 7


@pytest.mark.parametrize(
    "reason", ["rate_limited", "server_error", "connection_lost", "broken_reply", "timeout", "wrong_model"]
)
def test_temporary_failures_are_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setattr(request_loop, "FIRST_WAIT", 0.05)
    with serving(faults={reason: 0.15}, hang=60, seed=3) as server:
        # Long enough that a busy machine is not taken for a server that hangs.
        teacher = server.teacher({"concurrency": 32, "timeout_seconds": 1 if reason == "timeout" else 60})
        totals, spent, answers = ask(tmp_path, teacher)
        assert [answer["answer"] for answer in answers] == [answer_to(prompt) for prompt in PROMPTS]
        assert (totals.answered, totals.failed) == (60, 0)
        assert set(spent.failures) == {reason}
        failures = spent.failures[reason]
        assert failures >= server.failed[reason] > 0
        assert spent.requests == 60 + failures
        assert spent.perhaps_paid == (failures if RULES[reason].bill == "perhaps" else 0)
        assert spent.paid == 60 + (failures if RULES[reason].bill == "yes" else 0)
        if reason != "timeout":  # a slow answer may also have timed out
            assert failures == server.failed[reason]
            assert spent.requests == server.requests


def test_an_empty_answer_is_retried_once(tmp_path: Path) -> None:
    with serving(faults={"empty": 1.0}) as server:
        totals, spent, answers = ask(tmp_path, server.teacher({"max_failed": 1.0}), PROMPTS[:3])
        assert (totals.failed, server.requests, spent.paid) == (3, 6, 6)
        assert {answer["finish_reason"] for answer in answers} == {"stop"}
        assert {answer["answer"] for answer in answers} == {""}


def test_an_answer_without_readable_token_counts_is_used(tmp_path: Path) -> None:
    with serving(faults={"odd_usage": 1.0}) as server:
        totals, _, answers = ask(tmp_path, server.teacher({}), PROMPTS[:3])
        assert (totals.answered, totals.failed) == (3, 0)
        assert [answer["answer"] for answer in answers] == [answer_to(prompt) for prompt in PROMPTS[:3]]


def test_a_cut_off_answer_is_paid_for_once(tmp_path: Path) -> None:
    with serving(faults={"cut_off": 1.0}) as server:
        teacher = server.teacher({"max_failed": 1.0})
        for _ in range(2):
            totals, spent, answers = ask(tmp_path, teacher, PROMPTS[:10])
            assert (totals.failed, spent.paid, server.requests) == (10, 10, 10)
            assert {answer["finish_reason"] for answer in answers} == {"length"}
            assert answers[0]["answer"] == answer_to(PROMPTS[0])


def test_too_many_failures_raise_an_error_with_the_most_common_reason(tmp_path: Path) -> None:
    with serving(faults={"cut_off": 0.3, "filtered": 0.1}, seed=1) as server:
        with pytest.raises(UserError) as caught:
            ask(tmp_path, server.teacher({"max_failed": 0.2}))
        message = str(caught.value)
        assert "over the limit of 20%" in message
        assert (
            f"The most common reason is cut_off ({server.failed['cut_off']}): the answer did not end within 40 tokens"
            in message
        )
        assert f"{60 - server.failed.total()} of 60 answers are kept" in message
        ask(tmp_path, server.teacher({"max_failed": 0.9}))
        assert server.requests == 60


@pytest.mark.parametrize(
    ("reason", "message"),
    [("no_access", "HTTP 401"), ("not_found", "HTTP 404"), ("no_credit", "HTTP 402")],
)
def test_permanent_failures_stop_the_run_at_once(tmp_path: Path, reason: str, message: str) -> None:
    with serving(faults={reason: 1.0}) as server:
        with pytest.raises(UserError, match=f"The teacher rejects all requests: {message}"):
            ask(tmp_path, server.teacher({"concurrency": 4}))
        assert server.requests <= 4


def test_a_wrong_key_is_reported_but_never_shown(tmp_path: Path) -> None:
    with serving(key="the right one") as server:
        with pytest.raises(UserError) as caught:
            ask(tmp_path, server.teacher(), key=KEY)
        assert "Incorrect key: Bearer ***" in str(caught.value)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"Incorrect key" in written
    assert KEY.encode() not in written
    assert KEY not in str(caught.value)


def test_without_a_configured_key_none_of_the_environment_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(key=chat_completions.NO_KEY) as server:
        assert ask(tmp_path, server.teacher())[0].answered == 60


def test_the_run_stops_if_the_server_rejects_every_request(tmp_path: Path) -> None:
    with serving(faults={"refused": 1.0}) as server:
        with pytest.raises(UserError, match=r"20 prompts failed and none was answered\. .* HTTP 400: this is refused"):
            ask(tmp_path, server.teacher({"concurrency": 1}))
        assert server.requests == 20


def test_an_answer_of_another_model_is_refused(tmp_path: Path) -> None:
    with serving(faults={"wrong_model": 1.0}) as server:
        with pytest.raises(
            UserError, match=r"small-teacher answered instead of big-teacher\. Correct teacher\.model, or add the model"
        ):
            ask(tmp_path, server.teacher({"concurrency": 1}))
        assert server.requests == 3
        allowed = server.teacher({"reply_models": ["small-teacher"]})
        assert ask(tmp_path, allowed, PROMPTS[:5])[0].answered == 5


@pytest.mark.parametrize(
    ("model", "accepted"),
    [
        ("gpt-4o", True),
        ("gpt-4o-2024-08-06", True),
        ("gpt-4o@main", True),
        (None, True),
        ("gpt-4o-mini", False),
        ("gpt", False),
    ],
)
def test_a_version_after_the_name_is_the_same_model(model: str | None, accepted: bool) -> None:
    teacher = TeacherSettings.model_validate({"model": "gpt-4o", "endpoint": {"url": "http://127.0.0.1/v1"}})
    assert Endpoint(teacher, None)._accepts_model(model) == accepted


def test_an_unreachable_server_raises_a_clear_error(tmp_path: Path) -> None:
    with serving() as server:
        teacher = server.teacher({"attempts": 2, "concurrency": 2})
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+/v1 cannot be reached .*Check that the server"):
        ask(tmp_path, teacher)


def test_the_run_waits_until_an_outage_ends(tmp_path: Path) -> None:
    """No prompt fails, although the outage takes more attempts than a prompt has."""
    with serving(latency=0.005) as server:
        teacher = server.teacher({"attempts": 2, "concurrency": 4})
        Breaker(server, after=10, seconds=1.2).start()
        totals, spent, _ = ask(tmp_path, teacher)
        assert (totals.answered, totals.failed) == (60, 0)
        assert spent.failures["server_error"] > 0


class Breaker(threading.Thread):
    """Breaks the server after some requests, for some seconds."""

    def __init__(self, server: FaultServer, after: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self.server, self.after, self.seconds = server, after, seconds

    def run(self) -> None:
        pause = threading.Event()
        while self.server.requests < self.after:
            pause.wait(0.001)
        self.server.faults = {"server_error": 1.0}
        self.server.retry_after = 0.3
        pause.wait(self.seconds)
        self.server.faults = {}


# --- budget and rates -------------------------------------------------------------------------------------------------


def test_a_token_budget_is_never_exceeded(tmp_path: Path) -> None:
    with serving(latency=0.005) as server:
        with pytest.raises(UserError) as caught:
            ask(tmp_path, server.teacher({"budget": {"tokens": 1000}}))
        assert server.paid * (PROMPT_TOKENS + ANSWER_TOKENS) <= 1000
        assert server.paid > 25
        assert "budget.tokens 1,000 leaves no room for another request" in str(caught.value)
        assert "Raise teacher.endpoint.budget.tokens" in str(caught.value)
        assert f"{server.paid} of 60 answers are kept" in str(caught.value)
        ask(tmp_path, server.teacher({"budget": {"tokens": 10_000}}))
        assert server.requests == 60


def test_a_money_budget_counts_all_runs(tmp_path: Path) -> None:
    prices = {"input_per_million": 1000, "output_per_million": 10_000}
    price_per_answer = (PROMPT_TOKENS * 1000 + ANSWER_TOKENS * 10_000) / 1e6
    with serving() as server:
        limited = server.teacher({"prices": prices, "budget": {"money": 2.0}, "concurrency": 3})
        for prompts in (PROMPTS[:8], PROMPTS):
            try:
                ask(tmp_path, limited, prompts)
            except UserError as error:
                message = str(error)
        assert "budget.money 2 leaves no room for another request" in message
        assert 8 < server.paid <= 2.0 / price_per_answer


def test_requests_are_spaced_by_the_rate_limit() -> None:
    """60 per minute: a burst of one second, then one request per second."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def take() -> None:
        pace = Pace(60, sleep)
        for _ in range(5):
            await pace.take(1)
        pace.give_back(2)
        await pace.take(1)

    asyncio.run(take())
    assert [round(wait) for wait in waits] == [1, 2, 3, 2]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": format_datetime(datetime.now(UTC) - timedelta(hours=1))}, 0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert chat_completions._seconds_to_wait(headers) == seconds


def test_the_run_stops_if_the_server_requires_hours_of_waiting(tmp_path: Path) -> None:
    with serving(faults={"rate_limited": 1.0}, retry_after=7200) as server:
        with pytest.raises(UserError, match="requires a wait of 120 minutes"):
            ask(tmp_path, server.teacher({"concurrency": 2}))
        assert server.requests <= 2


# --- the log ----------------------------------------------------------------------------------------------------------


def test_a_truncated_last_log_line_is_dropped_and_requested_again(tmp_path: Path) -> None:
    with serving() as server:
        teacher = server.teacher({"concurrency": 1})
        ask(tmp_path, teacher, PROMPTS[:10])
        log = tmp_path / "log.jsonl"
        whole = log.read_bytes()
        log.write_bytes(whole[:-25])
        totals, spent, answers = ask(tmp_path, teacher, PROMPTS[:10])
        assert (totals.known, totals.answered, server.requests) == (9, 1, 11)
        assert (spent.paid, spent.perhaps_paid, spent.requests) == (10, 1, 11)
        assert [answer["answer"] for answer in answers] == [answer_to(prompt) for prompt in PROMPTS[:10]]


def test_two_runs_at_once_do_not_pay_twice(tmp_path: Path) -> None:
    """The second run waits for the first one, and then reads its answers."""
    with serving(latency=0.02) as server:
        teacher = server.teacher()
        runs = [threading.Thread(target=ask, args=(tmp_path, teacher)) for _ in range(2)]
        for run in runs:
            run.start()
        for run in runs:
            run.join(60)
        assert server.requests == 60


def test_calls_and_tools_are_sent_and_weights_are_not(tmp_path: Path) -> None:
    call = {"id": "call_1", "name": "track", "arguments": '{"order":7}'}
    messages = [
        *user("Where is order 7?"),
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "Look it up", "weight": 0.0},
        {"role": "tool", "content": "shipped", "tool_call_id": "call_1", "name": "track"},
    ]
    tools = '[{"type":"function","function":{"name":"track"}}]'
    with serving() as server:
        teacher = server.teacher()
        prompt = TeacherPrompt(teacher, [])
        requests = [prompt.request(messages, tools=tools), prompt.request(messages)]
        with AnswerLog.open(tmp_path, lambda message: None) as log:
            send_all(lambda: Endpoint(teacher, None), log, requests, 2, teacher, Recorder())
        assert requests[0].key != requests[1].key and len(server.bodies) == 2
        (body,) = [body for body in server.bodies if "tools" in body]
    assert body["tools"] == [{"type": "function", "function": {"name": "track"}}]
    function = {"id": "call_1", "type": "function", "function": {"name": "track", "arguments": '{"order":7}'}}
    assert body["messages"] == [
        messages[0],
        {"role": "assistant", "content": "", "tool_calls": [function]},
        messages[2],
    ]


def test_an_answer_that_calls_tools_is_logged_and_erased_and_no_text_to_learn(tmp_path: Path) -> None:
    function = {"name": "track", "arguments": '{ "name": "Zoë" }'}
    with serving() as server:
        server.calls = [{"id": "call_1", "type": "function", "function": function}]
        teacher = server.teacher()
        request = TeacherPrompt(teacher, []).request(user("Where is it?"), tools='[{"type":"function"}]')
        with AnswerLog.open(tmp_path, lambda message: None) as log:
            send_all(lambda: Endpoint(teacher, None), log, [request], 1, teacher, Recorder())
            scored, learned = answer_columns(log, request), text_columns(log, request)
    assert (scored["answer"], scored["calls"]) == ("", [{"name": "track", "arguments": '{"name":"Zoë"}'}])
    assert scored["finish_reason"] == "stop" and server.requests == 1
    assert (learned["finish_reason"], learned["failure"]) == (
        "failed",
        "the answer calls the tool track; distillation reads only texts",
    )
    assert erase_answers(log.path, lambda event: bool(event.get("calls"))) == 1
    assert "Zoë" not in log.path.read_text(encoding="utf-8")
