"""Starts an engine for a model, and checks that it answers as the model was scored before it gets requests."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
from jinja2.exceptions import TemplateError

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.model_kinds import WORD_MODEL
from ft_pipeline.features import choice
from ft_pipeline.models.serving_engines import HOST, OFFLINE_ENVIRONMENT, Engine
from ft_pipeline.release.export.served_folder import TEMPLATE_NAME, ServedFolder, require_servable, write_served_folder
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.serving.chat_exchange import ChatExchange, ChatRules, chat_rules
from ft_pipeline.serving.engine_pool import ReadyEngine, ServedModel
from ft_pipeline.serving.engine_process import Address, EngineProcess, free_port, send
from ft_pipeline.serving.llama_cpp_request import template_variables
from ft_pipeline.store.artifacts import ArtifactStore

SETTINGS_NAME = "llama_cpp.json"
"""The file in the served folder with the settings of our server."""
CACHED_TOKENS = 32_768
"""Up to this many tokens of several conversations are kept in memory at once."""
MAX_SLOTS = 4
"""Most requests that are answered at once."""
_QUESTION = {"role": "user", "content": "Is it 5 °C outside?\nI <b>wonder</b>."}
_ANSWER = {"role": "assistant", "content": "It is."}
_TOOL = {"type": "function", "function": {"name": "find", "description": "Find it", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class PromptProbe:
    """A conversation, and how the model reads it."""

    messages: list[dict[str, str]]
    tools: list[dict[str, Any]] | None
    token_ids: list[int]


POLL_SECONDS = 0.2
LLAMA_CPP_SERVER = "ft_pipeline.serving.llama_cpp_server"
WORD_MODEL_SERVER = "ft_pipeline.serving.word_model_server"
_REQUEST_SECONDS = 300.0
"""Limit for one request of a check; the first one can be slow."""


class EngineFailed(Exception):
    """An engine that ended, does not get ready, or does not answer."""


@dataclass(frozen=True)
class EngineStart:
    """What is needed to start an engine for any model of a project."""

    store: ArtifactStore
    engine: Engine
    quantization: str | None
    """The type of the GGUF file that llama.cpp serves; None: the only one, or the default."""
    folder: Path
    """Each engine has a folder in it."""

    def start(self, model: ModelReference) -> "StartedEngine":
        """Start an engine for the model, and return it at once. Raises UserError if the model cannot be served."""
        require_servable(model)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        if model.kind == "classifier":
            return self._start_classifier(model, folder)
        try:
            served = write_served_folder(self.store, model, folder, turns=self.engine.turns)
            probes: Sequence[PromptProbe] = ()
            if self.engine.name == "llama.cpp":
                write_llama_cpp_settings(served, model.name, served_gguf(self.store, model, self.quantization))
                probes = prompt_probes(served)
            parser = served.form.family.name if served.form.family else None
            address = (HOST, free_port(HOST))
            command = command_of(self.engine, model.name, folder, address[1], parser)
            process = EngineProcess(command, folder, OFFLINE_ENVIRONMENT, address)
        except BaseException:
            shutil.rmtree(folder)
            raise
        ready = ReadyEngine(
            describe_model(model, self.engine), address, chat_rules(served.form, self.engine, served.prompt)
        )
        return StartedEngine(ready, process, folder, probes)

    def _start_classifier(self, model: ModelReference, folder: Path) -> "StartedEngine":
        artifact, address = self.store.require(WORD_MODEL, model.fingerprints[WORD_MODEL]), (HOST, free_port(HOST))
        command = [sys.executable, "-P", "-m", WORD_MODEL_SERVER, str(artifact.path), str(address[1])]
        process = EngineProcess(command, folder, OFFLINE_ENVIRONMENT, address)
        rules = ChatRules(None, "A classifier calls no tools. Leave out `tools`.")
        served = replace(describe_model(model, self.engine), engine=WORD_MODEL)
        return StartedEngine(ReadyEngine(served, address, rules), process, folder)


@dataclass(frozen=True, eq=False)
class StartedEngine:
    """An engine that was started, and is ready at some time."""

    ready: ReadyEngine
    process: EngineProcess
    folder: Path
    probes: Sequence[PromptProbe] = ()

    def wait_until_ready(self, seconds: float | None, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Return once it is healthy and has answered a request. meanwhile: called again and again until then.

        Raises EngineFailed if it ends, is not healthy within `seconds` (None: no limit), or does not answer, and
        UserError if it reads prompts differently from how the model was scored.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self.process.is_healthy():
            if (code := self.process.exit_code) is not None:
                raise EngineFailed(f"exited before it was ready (exit code {code})")
            if deadline is not None and time.monotonic() > deadline:
                raise EngineFailed(f"was not ready within {seconds:.0f} s")
            meanwhile()
            time.sleep(POLL_SECONDS)
        try:
            for probe in self.probes:
                _require_same_prompt(self.ready.address, probe)
            self._require_answer()
        except (httpx2.HTTPError, ValueError, KeyError) as error:
            raise EngineFailed(f"does not answer ({type(error).__name__})") from error

    def stop(self) -> None:
        """End its processes, and remove its folder."""
        try:
            self.process.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _require_answer(self) -> None:
        question = {"model": self.ready.model.name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        request = ChatExchange(question, self.ready.rules).engine_request
        status, _ = send(self.ready.address, "POST", "/v1/chat/completions", request, seconds=_REQUEST_SECONDS)
        if status != httpx2.codes.OK:
            raise EngineFailed(f"does not answer (HTTP {status})")


def command_of(engine: Engine, model: str, folder: Path, port: int, call_parser: str | None = None) -> list[str]:
    """Return the command that serves `model`, the name of a subfolder of `folder` (Engine.command)."""
    if engine.name != "llama.cpp":
        return engine.command(model, folder, port, call_parser)
    return [str(engine.program), "-P", "-m", LLAMA_CPP_SERVER, str(folder / model / SETTINGS_NAME), str(port)]


def served_gguf(store: ArtifactStore, model: ModelReference, quantization: str | None) -> Path:
    """Return the GGUF file that llama.cpp serves. Raises UserError if the model has none."""
    if model.kind != "merged":
        raise UserError(
            f"llama.cpp serves GGUF files of merged models, and {model.row} is none. Use --engine transformers."
        )
    find = choice("served_file", "llama.cpp")
    assert find is not None
    return find(store, model, quantization)


def describe_model(model: ModelReference, engine: Engine) -> ServedModel:
    """Return what /health and /metrics say about the model."""
    record = model.record.sequence if model.record else None
    return ServedModel(model.name, model.row, model.released_fingerprint, engine.name, record)


def _require_same_prompt(address: Address, probe: PromptProbe) -> None:
    """Raise UserError if llama.cpp reads a conversation differently from transformers."""
    prompt = _reply(address, "/apply-template", template_variables(probe.messages, probe.tools))["prompt"]
    tokens = _reply(address, "/tokenize", {"content": prompt, "add_special": True})["tokens"]
    if tokens != probe.token_ids:
        raise UserError(
            "llama.cpp reads the prompts of this model differently from how it was scored. Use --engine transformers."
        )


def _reply(address: Address, path: str, document: Any) -> dict[str, Any]:
    status, body = send(address, "POST", path, document, seconds=_REQUEST_SECONDS)
    if status != httpx2.codes.OK:
        raise EngineFailed(f"does not take a prompt (HTTP {status})")
    return json.loads(body)


def write_llama_cpp_settings(served: ServedFolder, name: str, gguf: Path) -> None:
    """Write the settings of the server to the served folder. name: the model's, as clients give it."""
    window = _window(served.path)
    slots = max(1, min(MAX_SLOTS, CACHED_TOKENS // window)) if window else 1
    settings = {
        "gguf": str(gguf.resolve()),
        "template": str(served.path / TEMPLATE_NAME),
        "alias": name,
        "context": window * slots,
        "slots": slots,
    }
    (served.path / SETTINGS_NAME).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def prompt_probes(served: ServedFolder) -> list[PromptProbe]:
    """Return conversations with the tokens that transformers makes of them."""
    return list(_probes(served))


def _probes(served: ServedFolder) -> Iterator[PromptProbe]:
    system = {"role": "system", "content": "Be brief."}
    conversations: list[list[dict[str, str]]] = [[_QUESTION], [system, _QUESTION], [_QUESTION, _ANSWER, _QUESTION]]
    for messages in conversations:
        for tools in (None, [_TOOL]) if served.form.writes_tools else (None,):
            try:
                ids = served.tokenizer.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=True, return_dict=False
                )
            except TemplateError:
                continue  # the template takes no system prompt
            yield PromptProbe(messages, tools, list(ids))


def _window(folder: Path) -> int:
    """Return the number of tokens that the model can read; 0 if its config does not say it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("text_config", config).get("max_position_embeddings") or 0
