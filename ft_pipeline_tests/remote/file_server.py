"""A web server on loopback with files, redirects, faults and a log of the requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from ft_pipeline_tests.loopback import serving


@dataclass
class Served:
    """What the server answers for one path."""

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    headers_of_get: dict[str, str] = field(default_factory=dict)
    announced: bool = True
    """Whether the answer has a Content-Length."""
    sent: int | None = None
    """Number of bytes after which the connection ends; None: all."""
    faults: list[int] = field(default_factory=list)
    """Statuses of the next answers to GET."""
    token: str | None = None
    """The token without which the answer is 401."""
    knows_head: bool = True


@dataclass
class FileServer:
    """Its files by path, and the requests that it received."""

    port: int = 0
    files: dict[str, Served] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, header Authorization)."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, path: str, content: bytes, etag: str | None = None, **options: object) -> Served:
        """Serve a file."""
        served = Served(content, headers={"ETag": f'"{etag}"'} if etag else {}, **options)  # type: ignore[arg-type]
        self.files[path] = served
        return served

    def methods(self) -> list[str]:
        """The methods of the requests since the last call."""
        methods = [method for method, _, _ in self.requests]
        self.requests.clear()
        return methods


@contextmanager
def file_server() -> Iterator[FileServer]:
    """Start a server."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_content=False)

        def do_GET(self) -> None:
            self._answer(with_content=True)

        def _answer(self, with_content: bool) -> None:
            state.requests.append((self.command, self.path, self.headers["Authorization"]))
            served = state.files.get(self.path.partition("?")[0], Served(status=404))
            if served.token and self.headers["Authorization"] != f"Bearer {served.token}":
                served = Served(status=401)
            if not with_content and not served.knows_head:
                served = Served(status=405)
            if with_content and served.faults:
                served = Served(status=served.faults.pop(0))
            self.send_response(served.status)
            length = {"Content-Length": str(len(served.content))} if served.announced else {"Connection": "close"}
            own = served.headers_of_get if with_content else {}
            for name, value in {**length, **served.headers, **own}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_content:
                self.wfile.write(served.content[: served.sent])
            if served.sent is not None:
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    with serving(Handler) as state.port:
        yield state
