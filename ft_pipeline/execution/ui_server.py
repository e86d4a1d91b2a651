"""The processes of the UI: Dagster's web server with a filter of requests; for `ft ui` also its daemon and code server.

    python -m ft_pipeline.execution.ui_server --workspace FILE --port 3000 [--daemon | --read-only] [--allow-host NAME]

`dagster dev` starts the same processes, but its web server takes no middleware. This one listens on 127.0.0.1 only.
"""

import argparse
import contextlib
import logging
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import uvicorn
import yaml
from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers
from dagster_webserver.cli import DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_MAX_OVERFLOW, DEFAULT_POOL_RECYCLE
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from ft_pipeline.errors import UserError
from ft_pipeline.execution.instance import connect_instance
from ft_pipeline.execution.local_requests import RequestFilter
from ft_pipeline.page import REPORT_ADDRESS
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore

HOST = "127.0.0.1"
POLL_MILLISECONDS = 2000
"""How often a page asks for news of its assets."""
REQUEST_SECONDS = 10
"""How long open requests may take when the server stops."""
FOLLOW_SECONDS = 10.0
"""How often is looked whether the project asks for other steps."""
DAEMON_SECONDS = 60.0
"""How long the daemon may take to finish what it has begun."""
logger = logging.getLogger("ft_pipeline.ui")


class AnnouncedServer(uvicorn.Server):
    """A web server that prints its address as soon as it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port."""
        await super().startup(sockets)
        if self.started:
            sys.stderr.write(f"The Dagster UI: http://{HOST}:{self.config.port}. Press Ctrl-C to stop it.\n")


class FilteredWebserver(DagsterWebserver[WorkspaceProcessContext, WorkspaceRequestContext]):
    """Dagster's web server, which first refuses requests of other sites."""

    def __init__(self, context: WorkspaceProcessContext, allowed_hosts: Collection[str]) -> None:
        super().__init__(context, live_data_poll_rate=POLL_MILLISECONDS)
        self.allowed_hosts = allowed_hosts

    def build_middleware(self) -> list[Middleware]:
        """Return the middleware, outermost first."""
        return [Middleware(RequestFilter, self.allowed_hosts), *super().build_middleware()]

    def build_routes(self) -> list[BaseRoute]:
        """Return the routes: that of the report, and Dagster's."""
        return [Route(REPORT_ADDRESS, _current_report), *super().build_routes()]


def _current_report(request: Request) -> Response:
    """Return the current report. It has an origin of its own, so that none of its scripts can start a run."""
    from ft_pipeline.release.report.report import FILE_NAME, current_report

    try:
        report = current_report(ArtifactStore(Project.find().store)).path / FILE_NAME
    except UserError as error:
        return PlainTextResponse(f"{error}\n", status_code=404)
    sandbox = {"Content-Security-Policy": "sandbox allow-scripts allow-popups", "Cache-Control": "no-store"}
    return FileResponse(report, headers=sandbox)


def main(arguments: Sequence[str]) -> None:
    """Serve the UI until a signal ends it."""
    parser = argparse.ArgumentParser(prog="ui_server", description=__doc__)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--allow-host", action="append", default=[])
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--daemon", action="store_true")
    kind.add_argument("--read-only", action="store_true")
    options = parser.parse_args(arguments)
    configure_loggers()
    setup_interrupt_handlers()
    hosts = [*options.allow_host, *_public_host()]
    with connect_instance() as instance:
        instance.optimize_for_webserver(DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW)
        if not options.daemon:
            _serve(instance, options.workspace, options.port, hosts, read_only=options.read_only)
            return
        with _code_server(instance, options.workspace) as workspace, _daemon(workspace) as daemon:
            _serve(instance, workspace, options.port, hosts, daemon=daemon)


def _public_host() -> list[str]:
    """The host name in `notifications.ui_url`: under it a proxy passes requests on."""
    try:
        url = Project.find().settings.notifications.ui_url
        name = urlsplit(url).hostname if url else None
    except (UserError, ValueError) as error:
        logger.warning(f"{error}. The UI answers only under names of this machine.")
        return []
    return [name] if name else []


def _serve(
    instance: dg.DagsterInstance,
    workspace: str,
    port: int,
    hosts: Collection[str],
    *,
    read_only: bool = False,
    daemon: "subprocess.Popen[bytes] | None" = None,
) -> None:
    """Answer requests until a signal arrives. Raises UserError if the daemon ends before that."""
    target = WorkspaceFileTarget([workspace])
    with WorkspaceProcessContext(
        instance, target, version=__version__, read_only=read_only, code_server_log_level="WARNING"
    ) as context:
        app = FilteredWebserver(context, hosts).create_asgi_app()
        config = uvicorn.Config(
            app, host=HOST, port=port, log_level="warning", timeout_graceful_shutdown=REQUEST_SECONDS
        )
        server = AnnouncedServer(config)
        lost_daemon = threading.Event()

        def stop_with_daemon() -> None:
            """Stop the web server when the daemon ends: without it no schedule runs, and the UI would not show why."""
            if daemon is not None and daemon.wait() is not None and not server.should_exit:
                lost_daemon.set()
                server.should_exit = True

        threading.Thread(target=stop_with_daemon, daemon=True).start()
        if daemon is not None:
            threading.Thread(target=_follow_project, args=(context,), daemon=True).start()
        server.run()
    if daemon is not None and lost_daemon.is_set():
        raise UserError(f"Dagster's daemon ended with exit code {daemon.returncode}. Start the UI again.")


def _follow_project(context: WorkspaceProcessContext) -> None:
    """Load the definitions again when settings change, or when the project uses other steps."""
    known: list[Any] | None = None
    while True:
        try:
            now = _definitions_depend_on()
            if known is None:
                known = now
            if now != known:
                for name in context.create_request_context().code_location_names:
                    context.reload_code_location(name)
                known = now
        except Exception:  # a file that is half-written, or a code server that is restarted: tried again
            logger.warning("The definitions could not be loaded again", exc_info=True)
        time.sleep(FOLLOW_SECONDS)


def _definitions_depend_on() -> list[Any]:
    from ft_pipeline.execution.graph import graph_of_project

    root = Project.find().root
    settings = [root / "project.yaml", *sorted((root / "experiments").glob("*.yaml"))]
    return [graph_of_project(), *((path.name, path.read_bytes()) for path in settings if path.is_file())]


@contextlib.contextmanager
def _code_server(instance: dg.DagsterInstance, workspace: str) -> Iterator[str]:
    """Start the code locations once for web server and daemon; yield the path of a workspace that names them."""
    with (
        ProxyServerManager(instance, WorkspaceFileTarget([workspace]), "WARNING") as servers,
        tempfile.TemporaryDirectory() as folder,
    ):
        file = Path(folder) / "workspace.yaml"
        file.write_text(yaml.safe_dump({"load_from": servers.get_code_server_specs()}), encoding="utf-8")
        yield str(file)


@contextlib.contextmanager
def _daemon(workspace: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start Dagster's daemon, and end it."""
    command = [sys.executable, "-P", "-m", "dagster._daemon", "run", "--workspace", workspace]
    daemon = subprocess.Popen(command)
    try:
        yield daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(DAEMON_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit()
    except UserError as problem:
        sys.exit(str(problem))
