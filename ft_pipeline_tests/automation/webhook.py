"""A webhook like Slack's: an HTTP server on loopback that keeps its messages."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from ft_pipeline_tests.loopback import serving


@dataclass
class Webhook:
    """The statuses that it answers with, and the messages that it received."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    """Of the next answers; 200 once they are used up."""
    messages: list[str] = field(default_factory=list)
    """The texts, in order, including refused ones."""


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Start a server whose path contains a secret."""
    state = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            state.messages.append(json.loads(body)["text"])
            self.send_response(state.statuses.pop(0) if state.statuses else 200)
            self.send_header("Location", "/login")
            self.end_headers()

        def do_GET(self) -> None:
            """The page that a redirect leads to."""
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    with serving(Handler) as port:
        state.url = f"http://127.0.0.1:{port}/services/T0/B0/geheim"
        yield state
