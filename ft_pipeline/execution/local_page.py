"""Serve a small web application to this machine only, until it ends or a person stops it."""

import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ft_pipeline.errors import UserError
from ft_pipeline.execution.local_requests import RequestFilter

HOST = "127.0.0.1"
STOP_SECONDS = 5
"""How long open requests may take when it ends."""


class LocalPage:
    """A web application on the loopback interface. It answers only requests of its own pages."""

    def __init__(self, port: int) -> None:
        """port: 0 takes one that is free. UserError if it is in use."""
        self._socket = listen(HOST, port)
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._socket.getsockname()[1]}/"

    def serve(self, app: ASGIApp, announce: Callable[[str], None]) -> None:
        """Serve the application until `stop` is called. announce: receives the address. Ctrl-C: KeyboardInterrupt."""
        self._server = server_of(RequestFilter(app, how="Open it as 127.0.0.1."))
        announce(self.url)
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `serve` when open requests are answered."""
        assert self._server is not None, "nothing is served"
        self._server.should_exit = True


def server_of(app: ASGIApp, **options: Any) -> uvicorn.Server:
    """Return a server of an application, to be run with a socket of `listen`. options: more of uvicorn.Config."""
    return uvicorn.Server(
        uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=STOP_SECONDS, **options)
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the port. UserError if a process already does."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio then sends each packet at once (TCP_NODELAY)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed is free
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UserError(f"Port {port} of {host} is in use. Choose another: --port {port + 1}") from error
    listener.listen()
    return listener


def require_free_port(host: str, port: int) -> None:
    """Raise UserError if a process already listens on the port."""
    listen(host, port).close()
