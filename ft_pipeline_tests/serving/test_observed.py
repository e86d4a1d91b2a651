"""What a server says about itself: /health, /metrics, and requests that it does not answer."""

import http.client
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from ft_pipeline.serving.engine_pool import EnginePool, ReadyEngine, ServedModel
from ft_pipeline.serving.engine_process import free_port
from ft_pipeline.serving.front import Front, front_server
from ft_pipeline.serving.metrics import ServingMetrics
from ft_pipeline.serving.refused_request import RefusedRequest
from ft_pipeline.serving.traffic_log import TrafficLog
from ft_pipeline_tests.serving.served_shop import get, health, samples, wait_for
from ft_pipeline_tests.serving.test_front import ASK, READS, TOOLS, Engine, ask, front_of, post, running

CHAT = "/v1/chat/completions"
MODEL = ServedModel("shop", "lora/merged", "0123456789abcdef", "transformers", 7)


def client_at(port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", timeout=20, max_retries=0)


def test_before_an_engine_is_ready_requests_are_told_to_wait() -> None:
    pool, port = EnginePool(), free_port("127.0.0.1")
    with running(engine := Engine()), front_server(Front(pool, ServingMetrics(pool)), "127.0.0.1", port):
        assert health(port) == {"code": 503, "status": "loading"}
        with client_at(port) as client, pytest.raises(openai.InternalServerError, match="is being loaded"):
            ask(client)
        assert samples(port)["ready",] == 0 and not any("model_info" in key for key in samples(port))
        pool.serve(ReadyEngine(MODEL, ("127.0.0.1", engine.port), READS))
        state = health(port)
        assert state.pop("since").startswith("20") and state == {
            "code": 200,
            "status": "ok",
            "name": "shop",
            "row": "lora/merged",
            "fingerprint": "0123456789ab",
            "engine": "transformers",
            "record": 7,
            "next": None,
        }
        with client_at(port) as client:
            assert ask(client).choices[0].message.content == "Hello <b>you</b>."
        assert samples(port)["ready",] == 1
        pool.note(8, None)
        assert health(port)["next"]["status"] == "loading" and health(port)["code"] == 200


def test_metrics_are_what_was_sent(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    engine = Engine()
    log = TrafficLog(tmp_path / "log", "shop")
    with running(engine):
        front = front_of(engine.port, READS, log)
        with front_server(front, "127.0.0.1", port), client_at(port) as client:
            answers = [ask(client, user="ann") for _ in range(3)]
            for _ in range(2):
                list(ask(client, stream=True, tools=TOOLS))
            with pytest.raises(openai.BadRequestError):
                ask(client, tools=TOOLS, tool_choice="required")
            assert get(port, "/v1/secret-of-ann?x=1")[0] == 200
            assert get(port, "/wp-admin", Origin="https://evil.example")[0] == 403
            for rating in ("up", "down", "down", None):
                opinion = {"id": answers[0].id, "rating": rating, "comment": "so so"}
                assert post(client, "/v1/feedback", json.dumps(opinion).encode())[0] == 200
            (tmp_path / "log").rename(tmp_path / "moved")  # the next answer cannot be logged
            assert ask(client).choices
            wait_for(lambda: samples(port).get(("requests_total", CHAT, "200")) == 6)
            numbers = samples(port)
            assert all(not text.isdigit() or len(text) == 3 for key in numbers for text in key[1:] if "." not in text)
            assert not [key for key in numbers if "ann" in "".join(key[1:])]
    assert {
        key[1:]: value for key, value in numbers.items() if key[0] == "requests_total" and key[1] != "/metrics"
    } == {
        (CHAT, "200"): 6,
        (CHAT, "400"): 1,
        ("/v1/feedback", "200"): 4,
        ("other", "200"): 1,
        ("other", "403"): 1,
    }
    assert numbers["prompt_tokens_total",] == 6 * 5 and numbers["completion_tokens_total",] == 6 * 4
    assert numbers["request_seconds_count", CHAT] == 7 and numbers["first_token_seconds_count",] == 2
    assert numbers["request_seconds_bucket", "+Inf", CHAT] == 7 and numbers["request_seconds_sum", CHAT] > 0
    assert [numbers["feedback_total", rating] for rating in ("up", "down", "none")] == [1, 2, 1]
    assert numbers["log_errors_total",] == 1 and numbers["requests_in_flight",] == 0
    assert numbers["model_info", "transformers", "0123456789ab", "shop", "lora/merged"] == 1
    assert (numbers["swaps_total",], numbers["failed_swaps_total",]) == (0, 0)
    assert 0 < numbers["process_start_time_seconds",] <= time.time()


def test_tokens_of_a_stream_are_counted_where_the_client_did_not_ask_for_them() -> None:
    """As vLLM sends them: in a last chunk without choices, and only if it is asked to."""

    class UsageLast(Engine):
        def chunks(self) -> Any:
            chunks = list(super().chunks())
            usage = chunks[-1].pop("usage")
            yield from chunks
            if (self.requests[-1].get("stream_options") or {}).get("include_usage"):
                yield {**self._head("chat.completion.chunk"), "choices": [], "usage": usage}

    port = free_port("127.0.0.1")
    with (
        running(engine := UsageLast()),
        front_server(front_of(engine.port), "127.0.0.1", port),
        client_at(port) as client,
    ):
        assert all(chunk.choices for chunk in ask(client, stream=True))
        asked = list(ask(client, stream=True, stream_options={"include_usage": True}))
        assert asked[-1].choices == [] and asked[-1].usage.total_tokens == 9
        wait_for(lambda: samples(port)["completion_tokens_total",] == 8)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("10.1.2.3:80", 403),
        ("llm.shop.example", 200),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("", 403),
        ("[", 403),
    ],
)
def test_a_page_whose_name_was_made_to_point_here_is_refused(host: str, status: int) -> None:
    port = free_port("127.0.0.1")
    front = front_of(1)
    allowed = Front(front.pool, front.metrics, None, {"llm.shop.example"})
    with front_server(allowed, "127.0.0.1", port):
        for path in ("/health", "/metrics"):
            assert get(port, path, Host=host)[0] == status
        assert get(port, "/health", Host=host, Origin="https://evil.example")[0] == 403


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies_in_a_request_is_an_error_for_the_client(stream: bool) -> None:
    """It promised more than it sent."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    event = b'data: {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hel"}}]}\n\n'
    sent = head + f"{len(event):x}\r\n".encode() + event + b"\r\n"
    if not stream:
        sent = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
    port = free_port("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def die() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(sent)

        engine = threading.Thread(target=die)
        engine.start()
        with front_server(front_of(listener.getsockname()[1]), "127.0.0.1", port), client_at(port) as client:
            with pytest.raises(openai.APIError, match="ended the answer early"):
                list(ask(client, stream=True)) if stream else ask(client)
            engine.join()
            wait_for(lambda: samples(port).get(("requests_total", CHAT, "502")) == 1)
            assert samples(port)["requests_in_flight",] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_counted_and_ends_its_request(stream: bool) -> None:
    go = threading.Event()

    class Slow(Engine):
        def chunks(self) -> Any:
            assert go.wait(20)
            yield from super().chunks()

        def reply(self) -> Any:
            assert go.wait(20)
            return super().reply()

    port = free_port("127.0.0.1")
    with running(engine := Slow(text="x" * 300_000)), front_server(front_of(engine.port), "127.0.0.1", port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", CHAT, json.dumps({"messages": ASK, "stream": stream}))
        wait_for(lambda: samples(port)["requests_in_flight",] == 1)
        connection.close()
        wait_for(lambda: samples(port).get(("requests_total", CHAT, "499")) == 1)
        assert samples(port)["requests_in_flight",] == 0
        go.set()


def test_a_pool_gives_each_request_one_engine_and_knows_when_it_is_idle() -> None:
    pool = EnginePool()
    old, new = (ReadyEngine(MODEL, ("127.0.0.1", port), READS) for port in (1, 2))
    with pytest.raises(RefusedRequest) as refused, pool.engine():
        pass
    assert refused.value.status == 503
    pool.serve(old)
    ended = threading.Event()
    begun = threading.Barrier(9)

    def request() -> None:
        with pool.engine() as engine:
            begun.wait()
            ended.wait()
            assert engine is old

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    pool.serve(new)
    with pool.engine() as engine:
        assert engine is new and pool.in_flight == 9
    assert not pool.wait_until_idle(old, 0) and pool.wait_until_idle(new, 0)
    ended.set()
    assert pool.wait_until_idle(old, 20)
    for thread in threads:
        thread.join()
    assert pool.in_flight == 0
