"""New champions while engines misbehave: they never get ready, end early, or answer for too long."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from ft_pipeline.models.serving_engines import Engine
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.serving.champion_service import ChampionService, SwapLimits
from ft_pipeline.serving.engine_pool import EnginePool
from ft_pipeline.serving.engine_process import free_port
from ft_pipeline.serving.engine_start import EngineFailed, EngineStart
from ft_pipeline.serving.front import Front, front_server
from ft_pipeline.serving.metrics import ServingMetrics
from ft_pipeline_tests.release.trained import Trained
from ft_pipeline_tests.serving.served_shop import PATIENCE, QUESTION, ServedShop, health, samples, wait_for

PROGRAM = """
import http.server, json, pathlib, sys, time
port, weights, control = int(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
name = weights.resolve().parent.name

def mode():
    file = control / name
    return file.read_text() if file.exists() else "good"

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if mode() == "never ready" else 200)
        self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if mode() == "wrong" or body["messages"] == "die":
            self.send_response(500)
            self.end_headers()
            return
        choice = {"index": 0, "finish_reason": "stop"}
        if not body.get("stream"):
            reply = {"choices": [{**choice, "message": {"role": "assistant", "content": name}}]}
            self.reply(json.dumps(reply).encode(), "application/json")
            return
        self.reply(self.event({"content": name}, None), "text/event-stream")
        (control / "streaming").touch()
        while not (control / "go").exists():
            time.sleep(0.02)
        self.wfile.write(self.event({}, "stop"))
    def event(self, delta, finish):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\\n\\n"
    def reply(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
    def log_message(self, *args):
        pass

if mode() == "ends":
    sys.exit(7)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class FakeEngine(Engine):
    """A program that answers with the name of the folder of the weights that it was given."""

    def command(self, model: str, folder: Path, port: int, call_parser: str | None = None) -> list[str]:
        program = self.program / "engine.py"
        program.write_text(PROGRAM, encoding="utf-8")
        return [sys.executable, str(program), str(port), str(folder / model / "model.safetensors"), str(self.program)]


@dataclass
class Running:
    """A service with fake engines, in a thread."""

    shop: ServedShop
    control: Path
    port: int
    service: ChampionService
    said: list[str]
    raised: list[BaseException] = field(default_factory=list)

    def mode(self, name: str, mode: str) -> None:
        (self.control / self.name(name)).write_text(mode, encoding="utf-8")

    def name(self, name: str) -> str:
        return self.shop._trained.inputs[name]["merged_model"].path.name

    def ask(self) -> str:
        with self.client() as client:
            return client.chat.completions.create(model="champion", messages=QUESTION).choices[0].message.content or ""

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="x", timeout=PATIENCE, max_retries=0)

    @contextlib.contextmanager
    def stream(self) -> Iterator[list[Any]]:
        """A stream that has begun when the block begins. Its chunks, or the error that ended it, are there later."""
        got: list[Any] = []

        def read() -> None:
            try:
                with self.client() as client:
                    made = client.chat.completions.create(model="champion", messages=QUESTION, stream=True)
                    got.extend(chunk.choices[0] for chunk in made)
            except openai.APIError as error:
                got.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        wait_for((self.control / "streaming").exists)
        yield got
        thread.join(PATIENCE)

    def engines(self, text: str | None = None) -> list[psutil.Process]:
        """The processes of engines, or those with a text in their command."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                if (text or str(self.control)) in process.cmdline():
                    found.append(process)
        return found


@contextlib.contextmanager
def running(trained: Trained, folder: Path, **limits: float) -> Iterator[Running]:
    """Serve the champion `lora`; the block gets it when it answers. All engines must end."""
    shop = ServedShop(trained, folder / "shop")
    shop.release("lora")
    control, engines = folder / "control", folder / "engines"
    control.mkdir()
    engines.mkdir()
    pool, port, said = EnginePool(), free_port("127.0.0.1"), list[str]()
    starter = EngineStart(shop.store, FakeEngine("vllm", control), None, engines)
    metrics = ServingMetrics(pool)
    service = ChampionService(
        starter, pool, metrics, said.append, limits=SwapLimits(**{"poll": 0.1, "retry": 1000.0, **limits})
    )
    subject = Running(shop, control, port, service, said)
    ready = threading.Event()

    def serve() -> None:
        try:
            service.run(find_model(shop.store, "champion"), ready.set)
        except EngineFailed as failure:
            subject.raised.append(failure)

    thread = threading.Thread(target=serve)
    with front_server(Front(pool, metrics), "127.0.0.1", port):
        thread.start()
        assert ready.wait(PATIENCE)
        try:
            yield subject
        finally:
            for process in subject.engines():
                process.kill()
            thread.join(PATIENCE)
    assert not thread.is_alive() and subject.raised
    wait_for(lambda: subject.engines() == [])
    assert list(engines.iterdir()) == []


def test_a_request_in_progress_ends_on_the_engine_that_began_it(trained: Trained, tmp_path: Path) -> None:
    with running(trained, tmp_path) as service:
        with service.stream() as chunks:
            service.shop.release("whole")
            wait_for(lambda: health(service.port)["record"] == 2)
            assert service.ask() == service.name("whole")
            assert health(service.port)["next"] is None and samples(service.port)["requests_in_flight",] == 1
            (service.control / "go").touch()
        assert [chunk.delta.content for chunk in chunks] == [service.name("lora"), None]
        assert chunks[-1].finish_reason == "stop"
        folder = service.service.starter.folder
        wait_for(lambda: len(list(folder.iterdir())) == 1)  # the old engine has ended
        assert service.ask() == service.name("whole")
        assert service.said == [
            "Loading whole/merged (champion record 2) …",
            "Serving whole/merged (champion record 2).",
        ]


def test_a_request_that_never_ends_is_ended_with_an_error(trained: Trained, tmp_path: Path) -> None:
    with running(trained, tmp_path, drain=0.3) as service:
        with service.stream() as chunks:
            service.shop.release("whole")
            wait_for(lambda: any("were ended after" in line for line in service.said))
        assert isinstance(chunks[-1], openai.APIError) and "ended the answer early" in str(chunks[-1])
        assert service.ask() == service.name("whole")


@pytest.mark.parametrize(
    ("mode", "limit", "reason"),
    [
        ("never ready", 1.0, "Its engine was not ready within 1 s."),
        ("ends", 30.0, "Its engine exited before it was ready (exit code 7)."),
        ("wrong", 30.0, "Its engine does not answer (HTTP 500)."),
    ],
)
def test_a_champion_that_does_not_start_leaves_the_former_one(
    trained: Trained, tmp_path: Path, mode: str, limit: float, reason: str
) -> None:
    with running(trained, tmp_path, start=limit, retry=0.1) as service:
        service.mode("whole", mode)
        service.shop.release("whole")
        wait_for(lambda: samples(service.port)["failed_swaps_total",] >= 2)  # it was tried again
        state = health(service.port)
        assert (state["code"], state["status"], state["record"]) == (200, "ok", 1)
        assert service.ask() == service.name("lora")
        failures = [line for line in service.said if line.startswith("Champion record 2 cannot be served")]
        assert failures == [f"Champion record 2 cannot be served, so lora/merged is served on. {reason}"]
        service.mode("whole", "good")
        wait_for(lambda: health(service.port)["record"] == 2)
        assert service.ask() == service.name("whole") and health(service.port)["next"] is None
        assert samples(service.port)["swaps_total",] == 1


def test_an_engine_that_ends_while_serving_ends_the_service(trained: Trained, tmp_path: Path) -> None:
    with running(trained, tmp_path) as service:
        service.mode("whole", "never ready")
        service.shop.release("whole")  # also while another one is being loaded
        wait_for(lambda: (health(service.port)["next"] or {}).get("status") == "loading")
        serving = service.service.pool.current
        assert serving is not None
        for process in service.engines(str(serving.address[1])):
            process.kill()
        wait_for(lambda: bool(service.raised))
        assert "exited while serving (exit code" in str(service.raised[0])
