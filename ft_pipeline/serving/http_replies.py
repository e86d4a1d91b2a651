"""Responses of an HTTP server: JSON, whole bodies and streams in parts."""

import abc
import http.server
import json
import time
from collections.abc import Mapping
from typing import Any


class ReplyingHandler(http.server.BaseHTTPRequestHandler, abc.ABC):
    """Sends responses over connections that stay open."""

    protocol_version = "HTTP/1.1"
    timeout = 300
    """Seconds until an idle connection is closed."""
    disable_nagle_algorithm = True  # else the last packet of a response waits for the client's acknowledgement
    wbufsize = -1  # headers and body leave in one packet
    status = 0
    """Of the response to the current request; 0 before it is sent."""
    started = 0.0

    def parse_request(self) -> bool:
        """Begin to measure."""
        self.status, self.started = 0, time.perf_counter()
        return super().parse_request()

    def do_GET(self) -> None:
        self.handle_method()

    def do_POST(self) -> None:
        self.handle_method()

    @abc.abstractmethod
    def handle_method(self) -> None:
        """Answer the current request."""

    def log_message(self, *args: Any) -> None:
        """Print nothing: the engine prints its requests."""

    @property
    def seconds(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.started

    def send_json(self, status: int, document: Any) -> None:
        """Send a document."""
        body = json.dumps(document, ensure_ascii=False).encode()
        self.send_body(status, body, {"Content-Type": "application/json"})

    def send_body(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole response."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def begin_stream(self) -> None:
        """Send the head of a stream of events."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_part(self, part: bytes) -> None:
        """Send a part of a stream; an empty part ends it."""
        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.flush()

    def send_response(self, code: int, message: str | None = None) -> None:
        """Remember the status."""
        self.status = code
        super().send_response(code, message)
