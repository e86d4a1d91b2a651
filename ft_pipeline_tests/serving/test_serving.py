"""`ft serve` as a user runs it: real processes, the official client, and the answers that were scored."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import main
from ft_pipeline.cli.app import app
from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.errors import UserError
from ft_pipeline.execution.local_page import require_free_port
from ft_pipeline.release.champion import promote
from ft_pipeline.release.export.served_folder import require_servable, write_served_folder
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline_tests.release.trained import EVALUATION, ITEMS, VARIANTS, Trained

PATIENCE = 60.0
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
VLLM = """#!{python}
import http.server, json, os, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    do_POST = do_GET
port = int(sys.argv[sys.argv.index("--port") + 1])
with open({record!r}, "w") as file:
    json.dump({{"arguments": sys.argv[1:], "pid": os.getpid(), "offline": os.environ["HF_HUB_OFFLINE"]}}, file)
if {broken}:
    sys.exit("no GPU here")
http.server.HTTPServer(("127.0.0.1", port), Healthy).serve_forever()
"""


@dataclass(frozen=True)
class Served:
    """A running `ft serve`."""

    name: str
    port: int
    process: subprocess.Popen[str]
    said: str
    """What it printed before it was ready."""

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", timeout=PATIENCE)

    def below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(root: Path, name: str, port: int, *options: str, **environment: str) -> subprocess.Popen[str]:
    program = str(Path(sys.executable).parent / "ft")
    command = [program, "serve", name, "--project", str(root), "--port", str(port), *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        # A suite that a shell runs in the background ignores SIGINT, and what it starts would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@contextmanager
def serving(root: Path, name: str, *options: str, **environment: str) -> Iterator[Served]:
    """Run `ft serve NAME` for the block, which begins once it says that it answers."""
    port = free_port()
    process = start(root, name, port, *options, **environment)
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "Press Ctrl-C" in line:
                break
        assert f"Serving {name} at " in lines[-1], "".join(lines)
        yield Served(name, port, process, "".join(lines))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)


def items(trained: Trained, row: str) -> list[tuple[list[dict[str, str]], str]]:
    """The prompts of a comparison row while it was scored, as messages, each with its answer."""
    folder = trained.conversations.path
    talks = {record["id"]: record["messages"] for record in pq.read_table(folder / "rows.parquet").to_pylist()}
    samples = pq.read_table(trained.store.all("comparison")[-1].path / "samples.parquet").to_pylist()
    prompts_with_answers = []
    for sample in samples:
        if sample["name"] == row:
            talk, turn = sample["item"].rsplit(":", 1)
            prompts_with_answers.append((talks[talk][: int(turn)], sample["answer"]))
    assert len(prompts_with_answers) == ITEMS
    return prompts_with_answers


def ask(served: Served, messages: list[Any], **options: Any) -> str:
    answer = served.client.chat.completions.create(
        model=served.name, messages=messages, max_tokens=EVALUATION["max_new_tokens"], **options
    )
    return (answer.choices[0].message.content or "").strip()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("name", "row"), [("lora", "lora/merged"), ("few_shot", "few_shot")])
def test_a_served_model_gives_the_scored_answers(trained_here: Trained, name: str, row: str) -> None:
    """Merged weights under a system prompt, and a prompt variant with examples; then Ctrl-C."""
    with serving(trained_here.root, name) as served:
        assert [model.id for model in served.client.models.list()] == [name]
        assert [(ask(served, messages), answer) for messages, answer in items(trained_here, row)] == [
            (answer, answer) for _, answer in items(trained_here, row)
        ]
        with pytest.raises(openai.BadRequestError, match="writes no tools"):
            ask(served, [{"role": "user", "content": "Hi"}], tools=TOOLS)
        messages, answer = items(trained_here, row)[0]
        assert ask(served, messages, temperature=0.0) == answer
        changed_answer = ask(served, [{"role": "system", "content": "Say something else."}, *messages])
        assert changed_answer != answer  # the client's own system prompt wins
        below = served.below()
        assert below
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(PATIENCE) == 0
        assert psutil.wait_procs(below, PATIENCE)[1] == []


def vllm(folder: Path, *, broken: bool = False) -> dict[str, str]:
    """Write a program `vllm` that records its arguments; returns the environment that finds it."""
    folder.mkdir()
    program = folder / "vllm"
    record = str(folder / "record.json")
    program.write_text(VLLM.format(python=sys.executable, record=record, broken=broken), encoding="utf-8")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.long  # its command: contracts/test_engines.py
def test_an_installed_vllm_is_used_and_ends_with_ft(trained: Trained, tmp_path: Path) -> None:
    with serving(trained.root, "lora", **vllm(tmp_path / "bin")) as served:
        record = json.loads((tmp_path / "bin" / "record.json").read_text(encoding="utf-8"))
        verb, folder, *rest = record["arguments"]
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        assert verb == "serve"
        assert options["--served-model-name"] == "lora"
        assert options["--host"] == "127.0.0.1"
        assert json.loads(options["--override-generation-config"]) == {
            "temperature": 0,
            "repetition_penalty": 1,
            "min_p": 0,
        }
        assert record["offline"] == "1"
        generation = json.loads((Path(folder) / "generation_config.json").read_text(encoding="utf-8"))
        assert generation["do_sample"] is False
        engine = psutil.Process(record["pid"])
        served.process.kill()  # no warning and no clean-up
        assert psutil.wait_procs([engine], PATIENCE)[1] == []


@pytest.mark.long
def test_an_engine_that_exits_early_is_a_one_line_failure(trained: Trained, tmp_path: Path) -> None:
    process = start(trained.root, "lora", free_port(), **vllm(tmp_path / "bin", broken=True))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "no GPU here" in errors
    assert "vllm exited before it was ready (exit code 1)" in errors
    assert "Traceback" not in errors


def test_a_log_in_the_raw_data_is_refused_before_the_start(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--project", str(trained.root), "--port", str(free_port())]
    log = str(trained.root / "data" / "raw" / "traces")
    monkeypatch.setattr(sys, "argv", ["ft", "serve", "lora", *where, "--log", log])
    for name in ("FT_PROJECT", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # so that what a command sets is undone
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit) as ended:
        main()
    errors = capsys.readouterr().err
    assert ended.value.code == 2
    assert "is inside data/raw, so that the next run would train on all traffic. Choose another folder." in errors
    assert "Loading" not in errors and "Traceback" not in errors


def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} of 127.0.0.1 is in use. Choose another: --port {port + 1}"):
            require_free_port("127.0.0.1", port)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learned", r"is a learned prompt \(virtual tokens\)"),
        ("lora/adapter", "Serve its merged model: `ft serve lora`"),
    ],
)
def test_models_that_would_not_answer_as_scored_are_refused(trained: Trained, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_servable(find_model(trained.store, name))


def test_a_new_champion_is_served_from_the_next_start(probed: Trained, tmp_path: Path) -> None:
    shop = probed
    comparison = shop.store.all("comparison")[-1]
    merged = {role: artifact.fingerprint for role, artifact in shop.inputs["whole"].items()}
    variant = {"base_model": shop.base.fingerprint, "prompt_variant": "v"}
    moves = [
        Candidate(
            name="whole/merged",
            kind="merged",
            experiment="whole",
            fingerprint=merged["merged_model"],
            fingerprints=merged,
        ),
        Candidate(name="system_prompt", kind="prompt", experiment=None, fingerprint="p", fingerprints=variant),
    ]
    served = [shop.served["whole"], VARIANTS["system_prompt"]]
    folders = []
    for number, (candidate, how) in enumerate(zip(moves, served, strict=True)):
        evidence = {"served": how, "comparison": comparison.fingerprint}
        promote(shop.store.root, lambda _, c=candidate, e=evidence: Promotion(candidate=c, reason="why", evidence=e))  # type: ignore[misc]
        folders.append(write_served_folder(shop.store, find_model(shop.store, "champion"), tmp_path / str(number)).path)
    weights = [(folder / "model.safetensors").resolve() for folder in folders]
    assert [folder.name for folder in folders] == ["champion", "champion"]
    assert weights[0].parent == shop.inputs["whole"]["merged_model"].path
    assert weights[1].parent == shop.base.path
    prompts = [
        json.dumps(VARIANTS["system_prompt"]["system_prompt"], ensure_ascii=False) in text(folder) for folder in folders
    ]
    assert prompts == [False, True]


def text(folder: Path) -> str:
    return (folder / "chat_template.jinja").read_text(encoding="utf-8")


def test_serving_without_its_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = CliRunner().invoke(app, ["serve", "champion"])
    assert str(done.exception) == "`ft serve` needs the extra `serve`. Run: pip install 'ft-pipeline[serve]'"
