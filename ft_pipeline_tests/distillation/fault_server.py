"""An OpenAI-compatible server on loopback with a set latency and set failures, which counts its requests."""

import asyncio
import contextlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.settings.teacher import TeacherSettings

MODEL = "big-teacher"
PROMPT_TOKENS, ANSWER_TOKENS = 20, 10
UNPAID = frozenset({"rate_limited", "server_error", "no_access", "not_found", "no_credit", "refused"})
STATUS = {
    "rate_limited": 429,
    "server_error": 503,
    "no_access": 401,
    "not_found": 404,
    "no_credit": 402,
    "refused": 400,
}


def answer_to(prompt: str) -> str:
    """The server's answer to a prompt; different prompts get different answers."""
    return f"Please send us the order number that belongs to this: {prompt[-60:]}"


@dataclass
class FaultServer:
    """The settings of the server, and what it has counted."""

    url: str = ""
    faults: Mapping[str, float] = field(default_factory=dict)
    """The share of requests that fail, by reason (as in RULES)."""
    latency: float = 0.0
    slots: int = 10_000
    """Requests that are handled at once; further ones wait."""
    key: str | None = None
    """The key that it requires. Like some servers, it repeats a wrong key in its error."""
    retry_after: float = 0.05
    hang: float = 30.0
    """Seconds until it closes the connection in a `timeout`."""
    seed: int = 0
    requests: int = 0
    paid: int = 0
    """Answers made, whether or not they arrived."""
    received: Counter[str] = field(default_factory=Counter)
    """Requests by the user's last message."""
    answered: Counter[str] = field(default_factory=Counter)
    """Whole answers sent, by the user's last message."""
    failed: Counter[str] = field(default_factory=Counter)
    reply: Callable[[str], str] = answer_to
    """The answer to the user's last message."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """The calls, as in OpenAI's shape, that it answers with if a request declares tools."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """The last requests."""
    most_at_once: int = 0

    def teacher(self, endpoint: Mapping[str, Any] | None = None, **settings: Any) -> TeacherSettings:
        """Settings that ask this server."""
        about = {"url": self.url, "attempts": 8, "patience_seconds": 5, **(endpoint or {})}
        defaults = {"model": MODEL, "few_shot": 0, "max_new_tokens": 40}
        return TeacherSettings.model_validate(defaults | settings | {"endpoint": about})


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[FaultServer]:
    """Run the server in a separate thread until the block ends."""
    server = FaultServer(**settings)
    ready, ended = threading.Event(), threading.Event()
    loop = asyncio.new_event_loop()

    def main() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(RuntimeError, asyncio.CancelledError):
            loop.run_until_complete(_serve(server, ready))
        ended.set()

    threading.Thread(target=main, daemon=True).start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        ended.wait(10)


async def _serve(server: FaultServer, ready: threading.Event) -> None:
    slots = asyncio.Semaphore(server.slots)
    chance = random.Random(server.seed)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (body := await _read_request(reader)) is not None:
                async with slots:
                    server.most_at_once = max(server.most_at_once, server.slots - slots._value)
                    if not await _respond(server, *body, writer, chance):
                        break
        writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    ready.set()
    await listening.serve_forever()


async def _read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], dict[str, Any]] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:]
    except asyncio.IncompleteReadError:
        return None
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head) if name}
    return headers, json.loads(await reader.readexactly(int(headers.get("content-length", 0))))


async def _respond(
    server: FaultServer,
    headers: Mapping[str, str],
    body: dict[str, Any],
    writer: asyncio.StreamWriter,
    chance: random.Random,
) -> bool:
    """Answer one request, and return whether the connection stays open."""
    prompt = body["messages"][-1]["content"]
    server.requests += 1
    server.received[prompt] += 1
    server.bodies = [*server.bodies[-99:], body]
    fault = _fault(server, headers, chance)
    if fault is not None:
        server.failed[fault] += 1
    if fault not in UNPAID:
        server.paid += 1
    await asyncio.sleep(server.hang if fault == "timeout" else server.latency)
    if fault in UNPAID:
        await _send(writer, STATUS[fault], _error(fault, headers), {"retry-after": str(server.retry_after)})
        return True
    if fault in {"connection_lost", "timeout"}:
        return False
    content = json.dumps(_completion(server, prompt, body, fault)).encode()
    if fault == "broken_reply":
        content = content[: len(content) // 2]
    elif fault is None:
        server.answered[prompt] += 1
    await _send(writer, 200, content, {"x-request-id": f"req-{server.requests}"})
    return True


def _fault(server: FaultServer, headers: Mapping[str, str], chance: random.Random) -> str | None:
    if server.key is not None and headers.get("authorization") != f"Bearer {server.key}":
        return "no_access"
    drawn, cumulative = chance.random(), 0.0
    for reason, share in server.faults.items():
        cumulative += share
        if drawn < cumulative:
            return reason
    return None


def _error(fault: str, headers: Mapping[str, str]) -> bytes:
    message = f"Incorrect key: {headers.get('authorization', '')}" if fault == "no_access" else f"this is {fault}"
    return json.dumps({"error": {"message": message, "code": fault, "type": "error"}}).encode()


def _completion(server: FaultServer, prompt: str, body: Mapping[str, Any], fault: str | None) -> dict[str, Any]:
    finish = {"cut_off": "length", "filtered": "content_filter"}.get(fault or "", "stop")
    message: dict[str, Any] = {"role": "assistant", "content": "" if fault == "empty" else server.reply(prompt)}
    if server.calls and body.get("tools"):
        finish, message = "tool_calls", {"role": "assistant", "content": None, "tool_calls": server.calls}
    counts = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": ANSWER_TOKENS,
        "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
    }
    return {
        "id": f"chat-{server.requests}",
        "object": "chat.completion",
        "model": "small-teacher" if fault == "wrong_model" else body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": "unknown" if fault == "odd_usage" else counts,
    }


async def _send(writer: asyncio.StreamWriter, status: int, content: bytes, extra: Mapping[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in extra.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    await writer.drain()
