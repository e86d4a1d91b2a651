"""The server in front of a serving engine: it reads calls of tools from answers, and logs requests and feedback.

It listens on this machine only. Everything but chat completions and feedback passes unchanged.
"""

import contextlib
import http.client
import http.server
import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers.chat_exchange import ChatExchange, ChatRules, RefusedRequest
from ft_pipeline.execution.workers.traffic_log import MAX_FEEDBACK_BYTES, TrafficLog

MAX_REQUEST_BYTES = 64 * 2**20
_LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_CHAT, _FEEDBACK = "/v1/chat/completions", "/v1/feedback"
_RELAYED_HEADERS = ("Content-Type", "Retry-After")
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Front:
    """What a front server does."""

    engine: tuple[str, int]
    """Host and port of the engine."""
    rules: ChatRules
    log: TrafficLog | None = None


def free_port(host: str) -> int:
    """Return a port on which no process listens."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


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


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 300
    """Seconds until an idle connection is closed."""

    @property
    def front(self) -> Front:
        return cast(_Server, self.server).front

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        try:
            body = self._read_body()
        except RefusedRequest as refusal:
            self.close_connection = True  # the rest of the body was not read
            self._send_json(refusal.status, refusal.body)
            return
        self._handle(body)

    def log_message(self, *args: Any) -> None:
        """Print nothing: the engine prints its requests."""

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or "Transfer-Encoding" in self.headers:
            raise RefusedRequest("The request has no Content-Length. Send one.", status=411)
        limit = MAX_FEEDBACK_BYTES if self._path == _FEEDBACK else MAX_REQUEST_BYTES
        if int(length) > limit:
            raise RefusedRequest(f"The request has {length} bytes. Send at most {limit}.", status=413)
        return self.rfile.read(int(length))

    @property
    def _path(self) -> str:
        return urlsplit(self.path).path

    def _handle(self, body: bytes) -> None:
        try:
            self._refuse_web_pages()
            if self.command == "POST" and self._path == _FEEDBACK:
                self._feedback(body)
            elif self.command == "POST" and self._path == _CHAT:
                self._chat(body)
            else:
                with self._engine(body) as response:
                    self._relay(response, response.read())
        except RefusedRequest as refusal:
            self._send_json(refusal.status, refusal.body)
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # the client or the engine went away

    def _refuse_web_pages(self) -> None:
        """Raise RefusedRequest for a request of a web page of another machine: a browser can send it to this one."""
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).hostname not in _LOCAL_HOSTS:
            raise RefusedRequest("Requests of web pages are not answered. Send it from a program.", status=403)

    def _feedback(self, body: bytes) -> None:
        if self.front.log is None:
            raise RefusedRequest("Feedback is not recorded. Start `ft serve` with --log.", status=404)
        self._send_json(200, self.front.log.write_feedback(body))

    def _chat(self, body: bytes) -> None:
        exchange = ChatExchange(_parse_object(body), self.front.rules)
        with self._engine(json.dumps(exchange.engine_request).encode()) as response:
            if response.status != 200:
                self._relay(response, response.read())
            elif "text/event-stream" in (response.getheader("Content-Type") or ""):
                self._stream(exchange, response)
            else:
                reply = _reply(exchange, response.read())
                self._record(exchange, reply)
                self._send_json(200, reply)

    def _stream(self, exchange: ChatExchange, response: http.client.HTTPResponse) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in response:
            event = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or event == b"[DONE]":
                continue
            for part in _client_events(exchange, event):
                self._send_part(b"data: " + part + b"\n\n")
        if (reply := exchange.streamed_reply()) is not None:
            self._record(exchange, reply)
        self._send_part(_DONE)
        self.wfile.write(b"0\r\n\r\n")

    def _record(self, exchange: ChatExchange, reply: dict[str, Any]) -> None:
        """Log an exchange. An answer is sent even if the log cannot be written."""
        if self.front.log is None:
            return
        try:
            self.front.log.write_exchange(exchange.id, exchange.request, reply, self.headers.get("x-session-id"))
        except OSError as error:
            sys.stderr.write(f"ft: an answer is not logged ({error.strerror}). Free space, or restart with --log.\n")

    @contextlib.contextmanager
    def _engine(self, body: bytes) -> Iterator[http.client.HTTPResponse]:
        """Send the request to the engine, and yield its response."""
        connection = http.client.HTTPConnection(*self.front.engine)  # ignores proxies in the environment
        headers = {name: self.headers[name] for name in ("Content-Type", "Accept") if self.headers.get(name)}
        try:
            try:
                connection.request(self.command, self.path, body or None, headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise RefusedRequest("The engine does not answer. Restart `ft serve`.", status=502) from error
            yield response
        finally:
            connection.close()

    def _relay(self, response: http.client.HTTPResponse, body: bytes) -> None:
        headers = {name: value for name in _RELAYED_HEADERS if (value := response.getheader(name)) is not None}
        self._send(response.status, body, headers)

    def _send_json(self, status: int, document: Any) -> None:
        self._send(status, json.dumps(document, ensure_ascii=False).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_part(self, part: bytes) -> None:
        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.flush()


def _reply(exchange: ChatExchange, body: bytes) -> dict[str, Any]:
    """Return the client's reply. Raises RefusedRequest if the engine's is not a chat completion."""
    try:
        return exchange.reply(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusedRequest("The engine's reply is not a chat completion. Read its output.", status=502) from error


def _client_events(exchange: ChatExchange, event: bytes) -> list[bytes]:
    """Return the events for one event of the engine. Those that are not chunks, such as errors, stay as they are."""
    try:
        chunk = json.loads(event)
    except ValueError:
        return [event]
    if not isinstance(chunk, dict) or "choices" not in chunk:
        return [event]
    return [json.dumps(part, ensure_ascii=False).encode() for part in exchange.chunks(chunk)]


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedRequest("The body is not JSON. Send a chat request.") from None
    if not isinstance(document, dict):
        raise RefusedRequest("The body is not an object. Send a chat request.")
    return document
