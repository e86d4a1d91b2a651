"""The response of an engine to one request. If the engine goes away, the client gets an error."""

import contextlib
import http.client
from collections.abc import Iterator, Mapping

from ft_pipeline.serving.engine_process import Address
from ft_pipeline.serving.refused_request import RefusedRequest

_RELAYED_HEADERS = ("Content-Type", "Retry-After")


class EngineResponse:
    """A response that is read as it arrives. Reading raises RefusedRequest (502) if the engine goes away."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = {name: value for name in _RELAYED_HEADERS if (value := response.getheader(name)) is not None}
        self.is_stream = self.status == 200 and "text/event-stream" in (response.getheader("Content-Type") or "")

    def read(self) -> bytes:
        """Return the whole body."""
        with _engine_errors("ended the answer early"):
            return self._response.read()

    def parts(self) -> Iterator[bytes]:
        """Yield the body in parts, as they arrive."""
        while True:
            with _engine_errors("ended the answer early"):
                part = self._response.read1()
            if not part:
                return
            yield part

    def events(self) -> Iterator[bytes]:
        """Yield the data of each event of a stream but `[DONE]`."""
        while True:
            with _engine_errors("ended the answer early"):
                line = self._response.readline()
            if not line:
                return
            event = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and event != b"[DONE]":
                yield event


@contextlib.contextmanager
def ask_engine(
    address: Address, method: str, path: str, body: bytes, headers: Mapping[str, str]
) -> Iterator[EngineResponse]:
    """Send a request to an engine, and yield its response. Raises RefusedRequest if there is none."""
    connection = http.client.HTTPConnection(*address)  # ignores proxies in the environment
    try:
        with _engine_errors("does not answer"):
            connection.request(method, path, body or None, dict(headers))
            response = connection.getresponse()
        yield EngineResponse(response)
    finally:
        connection.close()


@contextlib.contextmanager
def _engine_errors(problem: str) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise RefusedRequest(f"The engine {problem}. Read its output, or restart `ft serve`.", status=502) from error
