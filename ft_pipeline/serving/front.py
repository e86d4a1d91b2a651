"""The server in front of the engines: it reads calls of tools from answers, logs requests and feedback, and measures.

It listens on this machine only. Other paths than those of chats, feedback, /health and /metrics pass unchanged.
"""

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from ft_pipeline.execution.local_page import listen, server_of
from ft_pipeline.execution.local_requests import reason_to_refuse
from ft_pipeline.models.tool_call_values import parse_json
from ft_pipeline.serving.chat_exchange import ChatExchange
from ft_pipeline.serving.engine_pool import EnginePool, ReadyEngine
from ft_pipeline.serving.engine_response import EngineResponse, ask_engine, engine_client
from ft_pipeline.serving.http_call import ClientWentAway, HttpCall
from ft_pipeline.serving.metrics import (
    CHAT,
    CLIENT_WENT_AWAY,
    CONTENT_TYPE,
    FEEDBACK,
    HEALTH,
    METRICS,
    ServingMetrics,
)
from ft_pipeline.serving.refused_request import RefusedRequest
from ft_pipeline.serving.traffic_log import MAX_FEEDBACK_BYTES, TrafficLog, read_feedback

MAX_REQUEST_BYTES = 64 * 2**20
IDLE_SECONDS = 300
"""Until an idle connection is closed."""
HOW_TO_ALLOW = "Start `ft serve` with --allow-host NAME to accept it."
_DONE = b"data: [DONE]\n\n"
_TOKEN_KEYS = ("content", "reasoning_content", "reasoning", "tool_calls")
"""Keys of a delta with what the model wrote."""


@dataclass(frozen=True)
class Front:
    """What a front server does."""

    pool: EnginePool
    metrics: ServingMetrics
    log: TrafficLog | None = None
    allowed_hosts: Collection[str] = ()
    """Names in the header Host that are accepted besides localhost."""


@contextlib.contextmanager
def front_server(front: Front, host: str, port: int) -> Iterator[None]:
    """Serve on `host`:`port` in a thread until the block ends. UserError if the port is in use."""
    listener, client = listen(host, port), engine_client()
    application = FrontApplication(front, client)
    server = server_of(application, ws="none", server_header=False, timeout_keep_alive=IDLE_SECONDS)

    async def serve() -> None:
        async with client:
            await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


class FrontApplication:
    """The ASGI application of a front server."""

    def __init__(self, front: Front, client: httpx2.AsyncClient) -> None:
        """client: asks the engines."""
        self.front = front
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens to the client and the engine, and count it."""
        call = HttpCall(scope, receive, send)
        try:
            try:
                if reason := reason_to_refuse(scope, self.front.allowed_hosts, HOW_TO_ALLOW):
                    raise RefusedRequest(reason, status=403)
                body = await call.read_body(MAX_FEEDBACK_BYTES if call.path == FEEDBACK else MAX_REQUEST_BYTES)
                await call.while_client_waits(self._answer(call, body))
            except RefusedRequest as refusal:
                await _refuse(call, refusal)
        except ClientWentAway:
            call.status = CLIENT_WENT_AWAY
        finally:
            self.front.metrics.answered(call.path, call.status or 500, call.seconds)

    async def _answer(self, call: HttpCall, body: bytes) -> None:
        route = call.method, call.path
        if route == ("GET", HEALTH):
            state = self.front.pool.health()
            await call.send_json(*((503, {"status": "loading"}) if state is None else (200, {"status": "ok", **state})))
        elif route == ("GET", METRICS):
            await call.send_body(200, self.front.metrics.text(), {"Content-Type": CONTENT_TYPE})
        elif route == ("POST", FEEDBACK):
            await self._feedback(call, body)
        elif call.method not in ("GET", "POST"):
            raise RefusedRequest(f"The method {call.method} is not served. Send GET or POST.", status=405)
        else:
            with self.front.pool.engine() as engine:
                if route == ("POST", CHAT):
                    await self._chat(call, engine, body)
                else:
                    await self._forward(call, engine, body)

    async def _feedback(self, call: HttpCall, body: bytes) -> None:
        if self.front.log is None:
            raise RefusedRequest("Feedback is not recorded. Start `ft serve` with --log.", status=404)
        try:
            reply = await run_in_threadpool(self.front.log.write_feedback, body)
        except OSError as error:
            self.front.metrics.log_error()
            raise RefusedRequest(
                f"The feedback is not logged ({error.strerror}). Send it again when there is space.", status=503
            ) from error
        self.front.metrics.feedback(read_feedback(body).get("rating"))
        await call.send_json(200, reply)

    async def _chat(self, call: HttpCall, engine: ReadyEngine, body: bytes) -> None:
        exchange = await run_in_threadpool(lambda: ChatExchange(_parse_object(body), engine.rules))
        chat = json.dumps(exchange.engine_request).encode()
        async with self._engine(call, engine, chat, "application/json") as response:  # `curl -d` names another type
            if response.status != 200:
                await self._relay(call, response)
            elif response.is_stream:
                await self._stream(call, exchange, response)
            else:
                reply = _reply(exchange, await response.read())
                await self._record(call, exchange, reply)
                await call.send_json(200, reply)

    async def _stream(self, call: HttpCall, exchange: ChatExchange, response: EngineResponse) -> None:
        await call.begin_stream()
        began = False
        async for event in response.events():
            chunk = _parse_chunk(event)
            if chunk is None:
                await call.send_part(b"data: " + event + b"\n\n")  # such as an error
                continue
            if not began and _has_token(chunk):
                began = True
                self.front.metrics.first_token(call.seconds)
            for part in exchange.chunks(chunk):
                await call.send_part(b"data: " + json.dumps(part, ensure_ascii=False).encode() + b"\n\n")
        reply = exchange.streamed_reply()
        if reply is None:
            raise RefusedRequest("The engine ended the answer early. Read its output.", status=502)
        await self._record(call, exchange, reply)
        await call.send_part(_DONE, is_last=True)

    async def _record(self, call: HttpCall, exchange: ChatExchange, reply: dict[str, Any]) -> None:
        """Count and log an exchange. An answer is sent even if the log cannot be written."""
        self.front.metrics.tokens(reply.get("usage"))
        if self.front.log is None:
            return
        session = call.headers.get("x-session-id")
        try:
            await run_in_threadpool(self.front.log.write_exchange, exchange.id, exchange.request, reply, session)
        except OSError as error:
            self.front.metrics.log_error()
            sys.stderr.write(f"ft: an answer is not logged ({error.strerror}). Free space, or restart with --log.\n")

    def _engine(
        self, call: HttpCall, engine: ReadyEngine, body: bytes, content_type: str | None
    ) -> contextlib.AbstractAsyncContextManager[EngineResponse]:
        headers = {"Content-Type": content_type, "Accept": call.headers.get("Accept")}
        given = {name: value for name, value in headers.items() if value}
        return ask_engine(self._client, engine.address, call.method, call.target, body, given)

    async def _forward(self, call: HttpCall, engine: ReadyEngine, body: bytes) -> None:
        """Send a request of another kind to the engine, and its response as it is."""
        engine.rules.require_served(call.path)
        async with self._engine(call, engine, body, call.headers.get("Content-Type")) as response:
            await self._relay(call, response)

    async def _relay(self, call: HttpCall, response: EngineResponse) -> None:
        """Send a response of an engine as it is."""
        if not response.is_stream:
            body = await response.read()
            self.front.metrics.tokens(_usage(body))
            await call.send_body(response.status, body, response.headers)
            return
        await call.begin_stream()
        began = False
        async for part in response.parts():
            if not began:
                began = True
                self.front.metrics.first_token(call.seconds)
            is_last = part.endswith(_DONE)
            await call.send_part(part, is_last=is_last)
            if is_last:
                return
        await call.send_part(b"", is_last=True)


async def _refuse(call: HttpCall, refusal: RefusedRequest) -> None:
    """Send an error, as an event if a stream has begun."""
    if call.status:
        await call.send_part(b"data: " + json.dumps(refusal.body).encode() + b"\n\n", is_last=True)
        call.status = refusal.status
    else:
        await call.send_json(refusal.status, refusal.body)


def _reply(exchange: ChatExchange, body: bytes) -> dict[str, Any]:
    """Return the client's reply. Raises RefusedRequest if the engine's is not a chat completion."""
    try:
        return exchange.reply(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusedRequest("The engine's reply is not a chat completion. Read its output.", status=502) from error


def _parse_chunk(event: bytes) -> dict[str, Any] | None:
    """Return the chunk in an event; None if it has another document."""
    try:
        chunk = json.loads(event)
    except ValueError:
        return None
    return chunk if isinstance(chunk, dict) and "choices" in chunk else None


def _has_token(chunk: dict[str, Any]) -> bool:
    deltas = [choice.get("delta") or {} for choice in chunk["choices"] or ()]
    return any(delta.get(key) for delta in deltas for key in _TOKEN_KEYS)


def _usage(body: bytes) -> Any:
    """Return the `usage` in a response; None if it has none."""
    if b'"usage"' not in body:
        return None
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document.get("usage") if isinstance(document, dict) else None


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body.decode("utf-8"))
    except ValueError:
        raise RefusedRequest("The body is not JSON. Send a chat request.") from None
    if not isinstance(document, dict):
        raise RefusedRequest("The body is not an object. Send a chat request.")
    return document
