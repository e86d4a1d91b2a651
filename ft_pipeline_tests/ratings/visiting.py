"""A visitor of a page of `ft` who sends what a browser without scripts sends."""

import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from html import unescape
from urllib.error import HTTPError

from starlette.types import ASGIApp

from ft_pipeline.execution.local_page import LocalPage
from ft_pipeline.ratings.page import RatingPage
from ft_pipeline.ratings.pairs import Match


@dataclass
class Visitor:
    """Opens pages and sends forms. `html` is the last page."""

    url: str
    html: str = ""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def open(self, path: str = "", **headers: str) -> "Visitor":
        return self._send(urllib.request.Request(self.url + path, headers=headers))

    def send(self, path: str, fields: Mapping[str, str], **headers: str) -> "Visitor":
        body = urllib.parse.urlencode(fields).encode()
        return self._send(urllib.request.Request(self.url + path, body, headers))

    def choose(self, verdict: str, note: str = "") -> "Visitor":
        """Press a button on the page that was opened last."""
        return self.send("verdict", {"item": self.item, "verdict": verdict, "note": note})

    @property
    def item(self) -> str:
        found = re.search(r'name="item" value="([^"]*)"', self.html)
        assert found, self.html
        return unescape(found[1])

    @property
    def answers(self) -> list[str]:
        return [unescape(text) for text in re.findall(r'</h2><div class="text">(.*?)</div></section>', self.html, re.S)]

    def _send(self, request: urllib.request.Request) -> "Visitor":
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                self.html, self.status, self.headers = reply.read().decode(), reply.status, reply.headers
        except HTTPError as error:
            self.html, self.status, self.headers = error.read().decode(), error.code, error.headers
        return self


@contextmanager
def serving(app: Callable[[LocalPage], ASGIApp]) -> Iterator[Visitor]:
    """Serve a page as `ft` does, until it ends or the block does. app: makes it, and may stop what serves it."""
    served, ready = LocalPage(0), threading.Event()
    thread = threading.Thread(target=served.serve, args=(app(served), lambda url: ready.set()))
    thread.start()
    ready.wait(30)
    try:
        yield Visitor(served.url)
    finally:
        served.stop()
        thread.join(30)
        assert not thread.is_alive()


def visiting(match: Match, rater: str = "r1", number: int = 60) -> AbstractContextManager[Visitor]:
    """Serve the page as `ft rate` does."""
    return serving(lambda served: RatingPage(match, rater, number, served.stop).app())
