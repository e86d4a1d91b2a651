"""One call of an HTTP client, and the response as it is sent. A client that goes away ends what is done for it."""

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ft_pipeline.serving.refused_request import RefusedRequest


class ClientWentAway(Exception):
    """The client closed its connection before the response had ended."""


class HttpCall:
    """A call, which is measured from here."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = Headers(scope=scope)
        self.status = 0
        """Of the response; 0 before it is sent."""
        self._scope, self._receive, self._send = scope, receive, send
        self._is_read = self._ended = False
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the call arrived."""
        return time.perf_counter() - self._started

    @property
    def target(self) -> str:
        """The path and the query, as the client sent them."""
        path, query = self._scope["raw_path"].decode("latin-1"), self._scope["query_string"].decode("latin-1")
        return f"{path}?{query}" if query else path

    async def read_body(self, limit: int) -> bytes:
        """Return the body. Raises RefusedRequest if it has more than `limit` bytes."""
        announced, body = self.headers.get("Content-Length", ""), bytearray()
        size = int(announced) if announced.isdigit() else 0
        while not self._is_read and size <= limit:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientWentAway
            body += message.get("body", b"")
            size = max(size, len(body))
            self._is_read = not message.get("more_body", False)
        if size > limit:
            raise RefusedRequest(f"The request has more than {limit} bytes. Send at most {limit}.", status=413)
        return bytes(body)

    async def while_client_waits(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work of a call whose body was read. Cancels it and raises ClientWentAway if the client goes away."""
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and not self._ended:
                raise ClientWentAway
            await working
        finally:
            working.cancel()
            leaving.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def send_json(self, status: int, document: Any) -> None:
        """Send a document."""
        body = json.dumps(document, ensure_ascii=False).encode()
        await self.send_body(status, body, {"Content-Type": "application/json"})

    async def send_body(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole response. It ends the connection if the request was not read to its end."""
        end = {} if self._is_read else {"Connection": "close"}
        await Response(body, status, {**headers, **end})(self._scope, self._receive, self._sent)

    async def begin_stream(self) -> None:
        """Send the head of a stream of events."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await self._sent({"type": "http.response.start", "status": 200, "headers": headers})

    async def send_part(self, part: bytes, *, is_last: bool = False) -> None:
        """Send a part of a stream. A client can leave once it has the last one."""
        await self._sent({"type": "http.response.body", "body": part, "more_body": not is_last})

    async def _sent(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self._ended = not message.get("more_body", False)
        await self._send(message)
