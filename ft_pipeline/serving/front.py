"""The server in front of the engines: it reads calls of tools from answers, logs requests and feedback, and measures.

It listens on this machine only. Other paths than those of chats, feedback, /health and /metrics pass unchanged.
"""

import contextlib
import http.server
import ipaddress
import json
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Any, cast
from urllib.parse import urlsplit

from ft_pipeline.errors import UserError
from ft_pipeline.models.tool_call_values import parse_json
from ft_pipeline.serving.chat_exchange import ChatExchange
from ft_pipeline.serving.engine_pool import EnginePool, ReadyEngine
from ft_pipeline.serving.engine_response import EngineResponse, ask_engine
from ft_pipeline.serving.http_replies import ReplyingHandler
from ft_pipeline.serving.metrics import (
    CHAT,
    CLIENT_WENT_AWAY,
    CONTENT_TYPE,
    FEEDBACK,
    HEALTH,
    METRICS,
    ServingMetrics,
)
from ft_pipeline.serving.refused_request import RefusedRequest
from ft_pipeline.serving.traffic_log import MAX_FEEDBACK_BYTES, TrafficLog, read_feedback

_LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


MAX_REQUEST_BYTES = 64 * 2**20
_DONE = b"data: [DONE]\n\n"
_TOKEN_KEYS = ("content", "reasoning_content", "reasoning", "tool_calls")
"""Keys of a delta with what the model wrote."""


@dataclass(frozen=True)
class Front:
    """What a front server does."""

    pool: EnginePool
    metrics: ServingMetrics
    log: TrafficLog | None = None
    allowed_hosts: Collection[str] = ()
    """Names in the header Host that are accepted besides localhost."""


@contextlib.contextmanager
def front_server(front: Front, host: str, port: int) -> Iterator[None]:
    """Serve on `host`:`port` in threads until the block ends. UserError if the port is in use."""
    try:
        server = _Server((host, port), front)
    except OSError as error:
        raise UserError(f"Port {port} of {host} is in use. Choose another: --port {port + 1}") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def __init__(self, address: tuple[str, int], front: Front) -> None:
        super().__init__(address, _Handler)
        self.front = front

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a client that closed its connection between two requests."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(ReplyingHandler):
    @property
    def front(self) -> Front:
        return cast(_Server, self.server).front

    @property
    def _path(self) -> str:
        return urlsplit(self.path).path

    def handle_method(self) -> None:
        """Answer a request, whatever happens to the client and the engine, and count it."""
        keeps_connection, self.close_connection = not self.close_connection, True  # until all of it is read
        try:
            try:
                refuse_web_pages(self.headers, self.front.allowed_hosts)
                body = self._read_body() if self.command == "POST" else b""
                self.close_connection = not keeps_connection
                self._answer(body)
            except RefusedRequest as refusal:
                self._refuse(refusal)
        except OSError:
            self.close_connection = True  # the client went away
            self.status = CLIENT_WENT_AWAY
        finally:
            self.front.metrics.answered(self._path, self.status, self.seconds)

    def _refuse(self, refusal: RefusedRequest) -> None:
        """Send an error, as an event if a stream has begun."""
        if self.status:
            self.close_connection, self.status = True, refusal.status
            self.send_part(b"data: " + json.dumps(refusal.body).encode() + b"\n\n")
            self.send_part(b"")
        else:
            self.send_json(refusal.status, refusal.body)

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or "Transfer-Encoding" in self.headers:
            raise RefusedRequest("The request has no Content-Length. Send one.", status=411)
        limit = MAX_FEEDBACK_BYTES if self._path == FEEDBACK else MAX_REQUEST_BYTES
        if int(length) > limit:
            raise RefusedRequest(f"The request has {length} bytes. Send at most {limit}.", status=413)
        return self.rfile.read(int(length))

    def _answer(self, body: bytes) -> None:
        route = self.command, self._path
        if route == ("GET", HEALTH):
            state = self.front.pool.health()
            self.send_json(*((503, {"status": "loading"}) if state is None else (200, {"status": "ok", **state})))
        elif route == ("GET", METRICS):
            self.send_body(200, self.front.metrics.text(), {"Content-Type": CONTENT_TYPE})
        elif route == ("POST", FEEDBACK):
            self._feedback(body)
        else:
            with self.front.pool.engine() as engine:
                if route == ("POST", CHAT):
                    self._chat(engine, body)
                else:
                    self._forward(engine, body)

    def _feedback(self, body: bytes) -> None:
        if self.front.log is None:
            raise RefusedRequest("Feedback is not recorded. Start `ft serve` with --log.", status=404)
        reply = self.front.log.write_feedback(body)
        self.front.metrics.feedback(read_feedback(body).get("rating"))
        self.send_json(200, reply)

    def _chat(self, engine: ReadyEngine, body: bytes) -> None:
        exchange = ChatExchange(_parse_object(body), engine.rules)
        with self._engine(engine, json.dumps(exchange.engine_request).encode()) as response:
            if response.status != 200:
                self._relay(response)
            elif response.is_stream:
                self._stream(exchange, response)
            else:
                reply = _reply(exchange, response.read())
                self._record(exchange, reply)
                self.send_json(200, reply)

    def _stream(self, exchange: ChatExchange, response: EngineResponse) -> None:
        self.begin_stream()
        began = False
        for event in response.events():
            chunk = _parse_chunk(event)
            if chunk is None:
                self.send_part(b"data: " + event + b"\n\n")  # such as an error
                continue
            if not began and _has_token(chunk):
                began = True
                self.front.metrics.first_token(self.seconds)
            for part in exchange.chunks(chunk):
                self.send_part(b"data: " + json.dumps(part, ensure_ascii=False).encode() + b"\n\n")
        reply = exchange.streamed_reply()
        if reply is None:
            raise RefusedRequest("The engine ended the answer early. Read its output.", status=502)
        self._record(exchange, reply)
        self.send_part(_DONE)
        self.send_part(b"")

    def _record(self, exchange: ChatExchange, reply: dict[str, Any]) -> None:
        """Count and log an exchange. An answer is sent even if the log cannot be written."""
        self.front.metrics.tokens(reply.get("usage"))
        if self.front.log is None:
            return
        try:
            self.front.log.write_exchange(exchange.id, exchange.request, reply, self.headers.get("x-session-id"))
        except OSError as error:
            self.front.metrics.log_error()
            sys.stderr.write(f"ft: an answer is not logged ({error.strerror}). Free space, or restart with --log.\n")

    def _engine(self, engine: ReadyEngine, body: bytes) -> contextlib.AbstractContextManager[EngineResponse]:
        headers = {name: self.headers[name] for name in ("Content-Type", "Accept") if self.headers.get(name)}
        return ask_engine(engine.address, self.command, self.path, body, headers)

    def _forward(self, engine: ReadyEngine, body: bytes) -> None:
        """Send a request of another kind to the engine, and its response as it is."""
        engine.rules.require_served(self._path)
        with self._engine(engine, body) as response:
            self._relay(response)

    def _relay(self, response: EngineResponse) -> None:
        """Send a response of an engine as it is."""
        if response.is_stream:
            self.begin_stream()
            for number, part in enumerate(response.parts()):
                if number == 0:
                    self.front.metrics.first_token(self.seconds)
                self.send_part(part)
            self.send_part(b"")
            return
        body = response.read()
        self.front.metrics.tokens(_usage(body))
        self.send_body(response.status, body, response.headers)


def _reply(exchange: ChatExchange, body: bytes) -> dict[str, Any]:
    """Return the client's reply. Raises RefusedRequest if the engine's is not a chat completion."""
    try:
        return exchange.reply(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusedRequest("The engine's reply is not a chat completion. Read its output.", status=502) from error


def _parse_chunk(event: bytes) -> dict[str, Any] | None:
    """Return the chunk in an event; None if it has another document."""
    try:
        chunk = json.loads(event)
    except ValueError:
        return None
    return chunk if isinstance(chunk, dict) and "choices" in chunk else None


def _has_token(chunk: dict[str, Any]) -> bool:
    deltas = [choice.get("delta") or {} for choice in chunk["choices"] or ()]
    return any(delta.get(key) for delta in deltas for key in _TOKEN_KEYS)


def _usage(body: bytes) -> Any:
    """Return the `usage` in a response; None if it has none."""
    if b'"usage"' not in body:
        return None
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document.get("usage") if isinstance(document, dict) else None


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body.decode("utf-8"))
    except ValueError:
        raise RefusedRequest("The body is not JSON. Send a chat request.") from None
    if not isinstance(document, dict):
        raise RefusedRequest("The body is not an object. Send a chat request.")
    return document


def refuse_web_pages(headers: Message, allowed_hosts: Collection[str] = ()) -> None:
    """Raise RefusedRequest for a request of a web page of another machine: a browser can send it to this one.

    allowed_hosts: names in the header Host that are accepted besides localhost and IP addresses. A page whose name
    was made to point to this machine (DNS rebinding) sends its own name.
    """
    origin = headers.get("Origin")
    if origin is not None and _host_name(origin) not in _LOCAL_HOSTS:
        raise RefusedRequest("Requests of web pages are not answered. Send it from a program.", status=403)
    host = headers.get("Host")
    if host is not None and not _is_safe(_host_name(f"//{host}"), allowed_hosts):
        raise RefusedRequest(
            "The header Host names another machine. Start `ft serve` with --allow-host NAME to accept it.", status=403
        )


def _is_safe(name: str | None, allowed_hosts: Collection[str]) -> bool:
    if name is None:
        return False
    if name == "localhost" or name in allowed_hosts:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True  # an address cannot point elsewhere


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
