"""The response of an engine to one request. If the engine goes away, the client gets an error."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping

import httpx2

from ft_pipeline.serving.engine_process import Address
from ft_pipeline.serving.refused_request import RefusedRequest

_RELAYED_HEADERS = ("Content-Type", "Retry-After")


def engine_client() -> httpx2.AsyncClient:
    """Return a client for all engines: a connection for each request, no time limit, no proxies of the environment."""
    return httpx2.AsyncClient(
        headers={"Accept-Encoding": "identity"},
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        timeout=None,
        trust_env=False,
    )


class EngineResponse:
    """A response that is read as it arrives. Reading raises RefusedRequest (502) if the engine goes away."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers = {name: value for name in _RELAYED_HEADERS if (value := response.headers.get(name)) is not None}
        self.is_stream = self.status == 200 and "text/event-stream" in response.headers.get("Content-Type", "")

    async def read(self) -> bytes:
        """Return the whole body."""
        with _engine_errors("ended the answer early"):
            return await self._response.aread()

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body in parts, as they arrive."""
        with _engine_errors("ended the answer early"):
            async for part in self._response.aiter_bytes():
                yield part

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the data of each event of a stream but `[DONE]`."""
        async for line in self._lines():
            event = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and event != b"[DONE]":
                yield event

    async def _lines(self) -> AsyncIterator[bytes]:
        # Not the client's lines, which end at each U+2028 and the like in an answer, too.
        rest = b""
        async for part in self.parts():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line
        yield rest


@contextlib.asynccontextmanager
async def ask_engine(
    client: httpx2.AsyncClient, address: Address, method: str, path: str, body: bytes, headers: Mapping[str, str]
) -> AsyncIterator[EngineResponse]:
    """Send a request to an engine, and yield its response. Raises RefusedRequest if there is none."""
    host, port = address
    async with contextlib.AsyncExitStack() as stack:
        with _engine_errors("does not answer"):
            request = client.stream(method, f"http://{host}:{port}{path}", content=body or None, headers=headers)
            response = await stack.enter_async_context(request)
        yield EngineResponse(response)


@contextlib.contextmanager
def _engine_errors(problem: str) -> Iterator[None]:
    try:
        yield
    except httpx2.HTTPError as error:
        raise RefusedRequest(f"The engine {problem}. Read its output, or restart `ft serve`.", status=502) from error
