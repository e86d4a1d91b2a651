"""What the server in front of an engine (`ft serve`) adds to a request, to an event of a stream, and to 16 clients.

    python -m benchmarks.serving [--rounds 3]

The engine is a stub in a process of its own that answers at once, so that the difference is the front server's. Each
round asks the engine and the front server by turns. Results go to benchmarks/results/serving.json.
"""

import argparse
import contextlib
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks import machine
from ft_pipeline.models.serving_engines import HOST, Engine
from ft_pipeline.models.turn_stream import AnswerForm
from ft_pipeline.serving.chat_exchange import chat_rules
from ft_pipeline.serving.engine_pool import EnginePool, ReadyEngine, ServedModel
from ft_pipeline.serving.engine_process import free_port
from ft_pipeline.serving.front import Front, front_server
from ft_pipeline.serving.metrics import ServingMetrics

RESULTS = Path(__file__).parent / "results" / "serving.json"
CHAT = "/v1/chat/completions"
EVENTS = 200
CLIENTS = 16
ASK: dict[str, Any] = {"model": "shop", "messages": [{"role": "user", "content": "Where is order 7?"}]}


def engine() -> Starlette:
    """Answer each chat at once, whole or as a stream of EVENTS words."""
    usage = {"prompt_tokens": 5, "completion_tokens": EVENTS, "total_tokens": EVENTS + 5}

    def choice(**fields: Any) -> list[dict[str, Any]]:
        return [{"index": 0, "finish_reason": None, **fields}]

    def events() -> Iterator[str]:
        for number in range(EVENTS):
            yield f"data: {json.dumps({'choices': choice(delta={'content': f'word{number} '})})}\n\n"
        yield f"data: {json.dumps({'choices': choice(delta={}, finish_reason='stop'), 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    async def in_parts() -> Any:
        for event in events():
            yield event

    async def chat(request: Request) -> Response:
        if (await request.json()).get("stream"):
            return StreamingResponse(in_parts(), media_type="text/event-stream")
        message = {"role": "assistant", "content": "It is on its way."}
        return JSONResponse({"choices": choice(message=message, finish_reason="stop"), "usage": usage})

    return Starlette(routes=[Route(CHAT, chat, methods=["POST"])])


def front(engine_port: int, port: int) -> None:
    """Serve in front of the engine until the process ends."""
    form = AnswerForm(None, False, False, ("<|im_end|>",), ("<|im_end|>",))
    pool = EnginePool()
    rules = chat_rules(form, Engine("transformers", Path("transformers")))
    pool.serve(ReadyEngine(ServedModel("shop", "lora/merged", "0" * 16, "transformers"), (HOST, engine_port), rules))
    with front_server(Front(pool, ServingMetrics(pool)), HOST, port):
        signal.pause()


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run this module in a process, and yield the URL of its chats once it listens. The port is the last argument."""
    started = subprocess.Popen([sys.executable, "-m", "benchmarks.serving", *arguments])
    address = (HOST, int(arguments[-1]))
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(address):
                break
            time.sleep(0.1)
        yield f"http://{address[0]}:{address[1]}{CHAT}"
    finally:
        started.kill()
        started.wait()


def whole(client: httpx2.Client, url: str) -> float:
    """Return the median milliseconds of a request."""
    taken = []
    for _ in range(300):
        began = time.perf_counter()
        client.post(url, json=ASK).raise_for_status()
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def streamed(client: httpx2.Client, url: str) -> float:
    """Return the median milliseconds of an event."""
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        with client.stream("POST", url, json={**ASK, "stream": True}) as response:
            lines = sum(line.startswith("data: ") for line in response.iter_lines())
        assert lines >= EVENTS
        taken.append((time.perf_counter() - began) / EVENTS)
    return 1000 * statistics.median(taken)


def at_once(client: httpx2.Client, url: str) -> float:
    """Return the requests per second of CLIENTS clients."""
    began, count = time.perf_counter(), 50 * CLIENTS
    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(lambda _: client.post(url, json=ASK).raise_for_status(), range(count)))
    return count / (time.perf_counter() - began)


MEASURES: dict[str, Callable[[httpx2.Client, str], float]] = {
    "ms_per_request": whole,
    "ms_per_event": streamed,
    f"requests_per_second_of_{CLIENTS}_clients": at_once,
}


def measure(rounds: int) -> dict[str, Any]:
    """Return the median over the rounds of each measure, of the engine and through the front server."""
    engine_port, port = free_port(HOST), free_port(HOST)
    with (
        process("engine", str(engine_port)) as alone,
        process("front", str(engine_port), str(port)) as through,
        httpx2.Client(timeout=60, limits=httpx2.Limits(max_connections=CLIENTS)) as client,
    ):
        found: dict[str, dict[str, list[float]]] = {name: {"engine": [], "front": []} for name in MEASURES}
        for _ in range(rounds):
            for name, take in MEASURES.items():
                found[name]["engine"].append(take(client, alone))
                found[name]["front"].append(take(client, through))
    return {
        name: {where: round(statistics.median(values), 3) for where, values in by_place.items()}
        for name, by_place in found.items()
    }


def main() -> None:
    if sys.argv[1:2] == ["engine"]:
        uvicorn.run(engine(), host=HOST, port=int(sys.argv[2]), log_level="error")
    elif sys.argv[1:2] == ["front"]:
        front(int(sys.argv[2]), int(sys.argv[3]))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--rounds", type=int, default=3)
        result = {"machine": machine.describe(), **measure(parser.parse_args().rounds)}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
