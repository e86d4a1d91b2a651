"""The server in front of an engine, with the official client: calls of tools, errors, the log and feedback."""

import http.client
import http.server
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.execution.local_page import listen
from ft_pipeline.models import serving_engines
from ft_pipeline.models.tool_calls import FAMILIES
from ft_pipeline.models.turn_stream import AnswerForm
from ft_pipeline.release.export.chat_template import template_with_whole_turns
from ft_pipeline.serving.chat_exchange import ChatRules, chat_rules
from ft_pipeline.serving.engine_pool import EnginePool, ReadyEngine, ServedModel
from ft_pipeline.serving.engine_process import free_port
from ft_pipeline.serving.front import Front, front_server
from ft_pipeline.serving.metrics import ServingMetrics
from ft_pipeline.serving.refused_request import RefusedRequest
from ft_pipeline.serving.traffic_log import TrafficLog, read_feedback
from ft_pipeline_tests import loopback
from ft_pipeline_tests.tiny import tiny_tokenizer

HERMES = AnswerForm(FAMILIES[0], True, False, ("<|im_end|>",), ("<|im_end|>",))
NO_TOOLS = AnswerForm(None, False, False, ("<|im_end|>",), ("<|im_end|>",))
UNKNOWN = AnswerForm(None, True, False, (), ())
CALL = '<tool_call>\n{"name": "track", "arguments": {"order": 7, "city": "Köln"}}\n</tool_call>'
TOOLS: Any = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}]
ASK: Any = [{"role": "user", "content": "Where is order 7?"}]
TRANSFORMERS, VLLM = (serving_engines.Engine(name, Path(name)) for name in ("transformers", "vllm"))
READS = chat_rules(HERMES, TRANSFORMERS)


@dataclass
class Engine:
    """A stub of an engine: it answers with a text, whole or in pieces of three letters."""

    text: str = "Hello <b>you</b>."
    finish: str = "stop"
    message: dict[str, Any] | None = None
    """The whole message, if the engine reads calls."""
    status: int = 200
    cut: bool = False
    """Whether it ends a stream in the middle."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    def reply(self) -> dict[str, Any]:
        message = self.message or {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage()}

    def chunks(self) -> Iterator[dict[str, Any]]:
        deltas: list[dict[str, Any]] = [{"role": "assistant"}]
        deltas += [{"content": self.text[begin : begin + 3]} for begin in range(0, len(self.text), 3)]
        for delta in deltas:
            yield {**self._head("chat.completion.chunk"), "choices": [{"index": 0, "delta": delta}]}
        if not self.cut:
            end = {"index": 0, "delta": {}, "finish_reason": self.finish}
            yield {**self._head("chat.completion.chunk"), "choices": [end], "usage": self.usage()}

    def event(self, chunk: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    @staticmethod
    def usage() -> dict[str, int]:
        return {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}

    @staticmethod
    def _head(kind: str) -> dict[str, Any]:
        return {"id": "engine-1", "object": kind, "created": 1, "model": "shop"}


@contextmanager
def running(engine: Engine) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(200, json.dumps({"object": "list", "data": [{"id": "shop", "object": "model"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            engine.requests.append(body)
            engine.headers.append({name.lower(): value for name, value in self.headers.items()})
            if engine.status != 200:
                self.answer(engine.status, b'{"detail": "no"}')
            elif body.get("stream"):
                events = b"".join(map(engine.event, engine.chunks()))
                self.answer(200, events, "text/event-stream")
            else:
                self.answer(200, json.dumps(engine.reply()).encode())

        def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    with loopback.serving(Handler) as engine.port:
        yield


def front_of(port: int, rules: ChatRules = READS, log: TrafficLog | None = None) -> Front:
    """A front server's duties for one engine."""
    pool = EnginePool()
    model = ServedModel("shop", "lora/merged", "0123456789abcdef", "transformers")
    pool.serve(ReadyEngine(model, ("127.0.0.1", port), rules))
    return Front(pool, ServingMetrics(pool), log)


@contextmanager
def serving(engine: Engine, rules: ChatRules = READS, log: TrafficLog | None = None) -> Iterator[openai.OpenAI]:
    """The client of a front server before the engine."""
    with running(engine):
        port = free_port("127.0.0.1")
        with front_server(front_of(engine.port, rules, log), "127.0.0.1", port):
            url = f"http://127.0.0.1:{port}/v1"
            with openai.OpenAI(base_url=url, api_key="secret-key", timeout=20, max_retries=0) as client:
                yield client


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="shop", messages=ASK, **more)


def called(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


TRACK = ("track", {"order": 7, "city": "Köln"})


def test_calls_in_an_answer_become_tool_calls() -> None:
    engine = Engine(f"Let me see.\n{CALL}\n{CALL}<|im_end|>")
    with serving(engine) as client:
        choice = ask(client, tools=TOOLS, tool_choice="auto").choices[0]
        assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
        assert called(choice.message) == [TRACK, TRACK]
        ids = {call.id for call in choice.message.tool_calls}
        assert len(ids) == 2 and all(len(identity) == 9 and identity.isalnum() for identity in ids)
        assert engine.requests[0] == {"model": "shop", "messages": ASK, "tools": TOOLS}
        one = ask(client, tools=TOOLS, parallel_tool_calls=False).choices[0].message
        assert called(one) == [TRACK]
        engine.text, engine.finish = CALL[:-20], "length"
        cut_off = ask(client, tools=TOOLS).choices[0]
        assert (cut_off.message.content, cut_off.finish_reason) == (CALL[:-20], "length")
        assert [model.id for model in client.models.list()] == ["shop"]


def test_turns_reach_the_template_whole() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "track", "arguments": '{"order": 7}'}}
    messages: list[Any] = [
        *ASK,
        {"role": "assistant", "content": "I look.", "tool_calls": [call], "reasoning": "Hm.", "refusal": None},
        {"role": "tool", "tool_call_id": "1", "name": "track", "content": [{"type": "text", "text": "Shipped."}]},
        {"role": "user", "content": [{"type": "text", "text": "When?"}]},
    ]
    engine = Engine()
    with serving(engine) as client:
        client.chat.completions.create(model="shop", messages=messages, tools=TOOLS)
        for broken in ("{", 7):
            call["function"]["arguments"] = broken  # type: ignore[index]
            with pytest.raises(openai.BadRequestError, match="not calls of functions with JSON arguments"):
                client.chat.completions.create(model="shop", messages=messages, tools=TOOLS)
        for none in ("Hello", [{"content": "x"}], ["x"]):
            assert post(client, "/v1/chat/completions", json.dumps({"messages": none}).encode())[0] == 400
    whole = "{% for turn in messages %}{{ turn | tojson }}\n{% endfor %}"
    tokenizer = tiny_tokenizer(template_with_whole_turns(whole))
    shown = tokenizer.apply_chat_template(engine.requests[0]["messages"], tokenize=False)
    function = {"name": "track", "arguments": {"order": 7}}
    assert [json.loads(line) for line in shown.splitlines()] == [
        {"content": "Where is order 7?", "role": "user"},
        {
            "content": "I look.",
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
            **dict.fromkeys(("reasoning", "thinking", "reasoning_content"), "Hm."),
        },
        {"content": "Shipped.", "role": "tool", "tool_call_id": "1", "name": "track"},
        {"content": [{"type": "text", "text": "When?"}], "role": "user"},
    ]


def test_an_answer_without_calls_keeps_its_text_and_reasoning() -> None:
    engine = Engine("<think>\nHm.\n</think>\n\nHello <|im_end|>")
    with serving(engine) as client:
        message = ask(client, tools=TOOLS).choices[0].message
        assert (message.content, message.reasoning_content, message.tool_calls) == ("Hello", "Hm.", None)
        engine.text = CALL
        assert ask(client).choices[0].message.content == CALL  # nobody declared tools
        assert ask(client, tools=TOOLS, tool_choice="none").choices[0].message.content == CALL
        assert "tools" not in engine.requests[-1]


def test_a_stream_has_text_at_once_and_calls_at_its_end() -> None:
    engine = Engine(f"Let me see.\n{CALL}")
    with serving(engine) as client:
        chunks = list(ask(client, tools=TOOLS, stream=True))
        assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].choices[0].delta.role == "assistant"
        deltas = [chunk.choices[0].delta for chunk in chunks]
        texts = [delta.content for delta in deltas if delta.content]
        assert len(texts) > 2 and "".join(texts) == "Let me see."
        [call] = [call for delta in deltas for call in delta.tool_calls or []]
        assert (call.index, call.function.name, json.loads(call.function.arguments)) == (0, *TRACK)
        assert (chunks[-1].choices[0].finish_reason, chunks[-1].usage.total_tokens) == ("tool_calls", 9)
        with client.chat.completions.stream(model="shop", messages=ASK, tools=TOOLS) as stream:
            final = stream.get_final_completion()
        assert called(final.choices[0].message) == [TRACK]


@pytest.mark.parametrize(
    ("rules", "more", "message"),
    [
        (chat_rules(NO_TOOLS, TRANSFORMERS), {"tools": TOOLS}, "writes no tools. Serve a model whose"),
        (chat_rules(NO_TOOLS, VLLM), {"tools": TOOLS}, "writes no tools. Serve a model whose"),
        (chat_rules(UNKNOWN, VLLM), {"tools": TOOLS}, "cannot be read. Serve a model of another"),
        (READS, {"tools": TOOLS, "tool_choice": "required"}, "cannot force a call. Send the tool_choice `auto`"),
        (READS, {"tools": [{"type": "custom"}]}, "`tools` is not a list of functions. Send entries like"),
        (READS, {"functions": [{"name": "f"}]}, "`functions` is not supported. Send the same functions as `tools`"),
    ],
)
def test_what_a_model_cannot_do_is_an_error_of_openai_s_shape(
    rules: ChatRules, more: dict[str, Any], message: str
) -> None:
    engine = Engine()
    with serving(engine, rules) as client:
        with pytest.raises(openai.BadRequestError, match=message) as raised:
            ask(client, **more)
        assert raised.value.type == "invalid_request_error" and raised.value.param in more
        assert engine.requests == []
        assert ask(client).choices[0].message.content == "Hello <b>you</b>."


def test_other_paths_pass_unchanged() -> None:
    engine = Engine(CALL)
    with serving(engine) as client:
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 0, timeout=20)
        for stream in (True, False, True):  # over one connection
            connection.request("POST", "/v1/completions", json.dumps({"prompt": "x", "stream": stream}))
            body = connection.getresponse().read()
            if stream:
                assert body == b"".join(map(engine.event, engine.chunks()))
            else:
                assert json.loads(body) == engine.reply()
        connection.close()


def test_errors_of_the_engine_and_broken_requests_reach_the_client() -> None:
    engine = Engine(status=422)
    with serving(engine) as client:
        with pytest.raises(openai.UnprocessableEntityError):
            ask(client)
        for body, message in ((b"{", "not JSON"), (b"[]", "not an object"), (b'{"top_p": NaN}', "not JSON")):
            status, reply = post(client, "/v1/chat/completions", body)
            assert (status, message in reply["error"]["message"]) == (400, True)
        assert post(client, "/v1/chat/completions", b"{}", Origin="https://evil.example")[0] == 403
        assert post(client, "/v1/chat/completions", b"{}", **{"Content-Length": "99999999999"})[0] == 413
    with front_server(front_of(free_port("127.0.0.1")), "127.0.0.1", port := free_port("127.0.0.1")):
        gone = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="engine does not answer"):
            ask(gone)
        with (
            pytest.raises(UserError, match=f"Port {port} of 127.0.0.1 is in use"),
            front_server(front_of(1), "127.0.0.1", port),
        ):
            pass


def test_a_request_without_a_length_is_read_and_other_methods_are_refused() -> None:
    with serving(Engine()) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        for method, body, expected in (
            ("POST", iter([b'{"messages": ', json.dumps(ASK).encode(), b"}"]), 200),
            ("POST", iter([b" " * 2**20] * 65), 413),
            ("DELETE", None, 405),
        ):
            connection = http.client.HTTPConnection(*address, timeout=20)
            with suppress(ConnectionError):  # it is refused before all of it is sent
                connection.request(method, "/v1/chat/completions", body)
            response = connection.getresponse()
            assert response.status == expected
            assert expected == 200 or json.loads(response.read())["error"]["message"].count(". ") == 1
            connection.close()


def test_a_stream_keeps_characters_that_some_call_ends_of_lines() -> None:
    """Engines send U+2028 and the like as they are, inside an event."""
    text = "one\u2028two\u0085three\x1cfour"

    class Raw(Engine):
        def event(self, chunk: Any) -> bytes:
            return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"

    with serving(Raw(text)) as client:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, stream=True)) == text


@pytest.mark.parametrize("header", ["Origin: https://evil.example", "Host: evil.example"])
def test_a_web_page_is_refused_before_its_body_is_read(header: str) -> None:
    with serving(Engine()) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=20) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\n{header}\r\nContent-Length: 60000000\r\n\r\n"
            connection.sendall(head.encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))  # the server closes the connection
    assert answer.startswith(b"HTTP/1.1 403 ")


def test_packets_of_a_response_do_not_wait_for_each_other() -> None:
    """asyncio sets TCP_NODELAY on what a listener accepts only if the listener says that it is TCP's."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def post(client: openai.OpenAI, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 0, timeout=20)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    return response.status, document


def test_the_engine_gets_a_chat_as_json_whatever_the_client_calls_it() -> None:
    """`curl -d` says that its body is a form, for which transformers has a 422."""
    engine = Engine()
    with serving(engine) as client:
        chat = json.dumps({"model": "shop", "messages": ASK}).encode()
        status, _ = post(client, "/v1/chat/completions", chat, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert status == 200 and engine.headers[-1]["content-type"] == "application/json"


def lines(folder: Path) -> list[Any]:
    [file] = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_log_has_requests_answers_and_feedback(tmp_path: Path) -> None:
    engine = Engine(f"Let me see.\n{CALL}")
    folder = tmp_path / "log"
    with serving(engine, log=TrafficLog(folder, "shop")) as client:
        whole = ask(
            client, tools=TOOLS, user="ann", metadata={"session_id": "s1", "workload_id": "returns"}, temperature=0.0
        )
        chunks = list(ask(client, tools=TOOLS, stream=True, extra_headers={"x-session-id": "s2"}))
        feedback = {"id": whole.id, "rating": "down", "correction": "It is late.", "comment": "wrong", "user": "bob"}
        assert post(client, "/v1/feedback", json.dumps(feedback).encode()) == (
            200,
            {"id": whole.id, "status": "recorded"},
        )
        engine.cut = True
        with pytest.raises(openai.APIError, match="ended the answer early"):
            list(ask(client, stream=True))
    first, second, third = lines(folder)
    assert (first["id"], first["workload_id"], first["client_id"], first["session_id"]) == (
        whole.id,
        "returns",
        "ann",
        "s1",
    )
    assert first["request"]["messages"] == ASK and first["request"]["tools"] == TOOLS
    assert first["response"] == json.loads(whole.to_json())
    assert isinstance(first["timestamp"], int)
    assert (second["id"], second["workload_id"], second["client_id"], second["session_id"]) == (
        chunks[0].id,
        "shop",
        "ft-serve",
        "s2",
    )
    streamed = second["response"]["choices"][0]
    assert second["response"]["object"] == "chat.completion" and second["response"]["usage"]["total_tokens"] == 9
    assert (streamed["message"]["content"], streamed["finish_reason"]) == ("Let me see.", "tool_calls")
    [call] = streamed["message"]["tool_calls"]
    assert call["function"]["name"] == "track" and call["id"] == chunks[-2].choices[0].delta.tool_calls[0].id
    assert third["feedback"].pop("timestamp") >= first["timestamp"]
    assert third == {"feedback": feedback}
    assert "secret-key" not in json.dumps([first, second, third])
    assert all("authorization" not in sent for sent in engine.headers)


def test_an_engine_that_reads_calls_itself_is_logged_as_it_answers(tmp_path: Path) -> None:
    function = {"name": "track", "arguments": "{}"}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    engine = Engine(message=message, finish="tool_calls")
    file = tmp_path / "deep" / "one.jsonl"
    with serving(engine, chat_rules(HERMES, VLLM), TrafficLog(file, "shop")) as client:
        ask(client, tools=TOOLS, tool_choice="required")
    [line] = lines(file.parent)
    assert line["response"]["choices"][0]["message"] == message
    assert engine.requests[0]["tool_choice"] == "required"


def test_feedback_outlives_a_restart_and_a_line_cut_off_by_a_kill(tmp_path: Path) -> None:
    with serving(Engine(), log=TrafficLog(tmp_path, "shop")) as client:
        identity = ask(client).id
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b'{"id":"chatcmpl-cut')
    log = TrafficLog(tmp_path, "shop")
    log.write_feedback(json.dumps({"id": identity, "rating": "up"}).encode())
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[-1])["feedback"]["rating"] == "up"
    with pytest.raises(RefusedRequest, match="No logged answer has the id 'chatcmpl-cut'") as raised:
        log.write_feedback(b'{"id": "chatcmpl-cut", "rating": "up"}')
    assert raised.value.status == 404


def test_feedback_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with serving(Engine(), log=TrafficLog(tmp_path / "log", "shop")) as client:
        identity = ask(client).id
        (tmp_path / "log").rename(tmp_path / "moved")
        status, reply = post(client, "/v1/feedback", json.dumps({"id": identity, "rating": "up"}).encode())
        assert (status, "is not logged (No such file" in reply["error"]["message"]) == (503, True)


def test_feedback_without_a_log_is_not_found() -> None:
    with serving(Engine()) as client:
        status, reply = post(client, "/v1/feedback", b'{"id": "x", "rating": "up"}')
        assert (status, "Start `ft serve` with --log" in reply["error"]["message"]) == (404, True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "no `id`"),
        ('{"id": 5, "rating": "up"}', "`id` is not a text"),
        ('{"id": "a"}', "says nothing"),
        ('{"id": "a", "rating": "good"}', 'not "up" or "down"'),
        ('{"id": "a", "rating": 1}', 'not "up" or "down"'),
        ('{"id": "a", "stars": 5}', "'stars' is unknown"),
        ('{"id": "a", "correction": " "}', "not an answer"),
        ('{"id": "a", "correction": {"role": "user", "content": "x"}}', "not an answer"),
        ('{"id": "a", "correction": {"content": null}}', "not an answer"),
        (
            '{"id": "a", "correction": {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}}',
            "not an answer",
        ),
        (json.dumps({"id": "a", "comment": "x" * 10_001}), "at most 10000 characters"),
    ],
)
def test_bad_feedback_is_refused_with_the_reason(body: str, message: str) -> None:
    with pytest.raises(RefusedRequest, match=message) as raised:
        read_feedback(body.encode())
    assert raised.value.status == 400 and str(raised.value).count(". ") == 1


def test_a_correction_may_be_a_call() -> None:
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "track", "arguments": '{"order": 8}'}}]}
    assert read_feedback(json.dumps({"id": "a", "correction": message}).encode())["correction"] == message


def test_a_log_that_would_be_trained_on_or_cannot_be_written_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "raw"
    with pytest.raises(UserError, match="is inside data/raw"):
        TrafficLog(raw / "traces", "shop", raw)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        TrafficLog(tmp_path / "file", "shop", raw)


def test_many_writers_leave_whole_lines(tmp_path: Path) -> None:
    logs = [TrafficLog(tmp_path, "shop") for _ in range(4)]
    text = "x" * 20_000

    def write(log: TrafficLog) -> None:
        for number in range(20):
            log.write_exchange(f"chatcmpl-{os.getpid()}-{number}", {"messages": [{"content": text}]}, {}, None)

    threads = [threading.Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(tmp_path)) == 80
