"""Find the programs that serve a model, and build the commands that start them."""

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ft_pipeline.errors import UserError
from ft_pipeline.models.compute_setting import query_compute_dtype

EngineName = Literal["vllm", "transformers", "llama.cpp"]
TurnForm = Literal["as_sent", "packed", "variables"]
"""How the client's turns reach the chat template: the engine passes them on; packed, see chat_template.packed_turn; or
as variables of the template, see chat_template.template_with_variables."""
HOST = "127.0.0.1"
"""The engine serves this machine only."""
OFFLINE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""The engine's environment: the model is local, and no telemetry is sent."""


@dataclass(frozen=True)
class Engine:
    """A program that serves an OpenAI-compatible endpoint."""

    name: EngineName
    program: Path

    def command(self, model: str, folder: Path, port: int, call_parser: str | None = None) -> list[str]:
        """Return the command that serves `model`, the name of a subfolder of `folder`. Run it in `folder`.

        call_parser: the name of vLLM's parser for the calls of tools that the model writes; None: it writes none.
        That of llama.cpp is our own server's (serving/engine_start.py).

        vLLM and transformers use the compute type of this machine, as scoring does. Their call takes some seconds,
        because a separate process imports torch.
        """
        compute = query_compute_dtype()
        server = ["--host", HOST, "--port", str(port), "--dtype", compute["dtype"]]
        if self.name == "transformers":
            # By default it uses a Mac's GPU, on which no model is scored.
            device = ["--device", "cpu"] if compute["device"] == "cpu" else []
            return [str(self.program), "serve", model, *server, *device]
        return [
            str(self.program), "serve", str(folder / model), "--served-model-name", model, *server,
            # vLLM samples at temperature 1 if neither request nor model sets it, obeys the model's own penalty, and
            # accepts requests of any web page.
            "--override-generation-config", '{"temperature": 0, "repetition_penalty": 1, "min_p": 0}',
            "--chat-template-content-format", "string",
            "--allowed-origins", "[]",
            *(("--enable-auto-tool-choice", "--tool-call-parser", call_parser) if call_parser else ()),
        ]  # fmt: skip

    @property
    def reads_calls(self) -> bool:
        """Whether the engine turns calls of tools in an answer into `tool_calls`. transformers reads those of few kinds
        of models, which it knows by name. llama.cpp guesses the form, so it is set to return the text."""
        return self.name == "vllm"

    @property
    def turns(self) -> TurnForm:
        """How it is sent the turns of a conversation."""
        forms: dict[EngineName, TurnForm] = {"vllm": "as_sent", "transformers": "packed", "llama.cpp": "variables"}
        return forms[self.name]


def find_engine(engine: Literal["auto", "vllm", "transformers", "llama.cpp"]) -> Engine:
    """Return the engine by name. `auto` is vLLM if it is installed. UserError if the engine is not installed."""
    if engine == "llama.cpp":
        if importlib.util.find_spec("xllamacpp") is None:
            raise UserError("llama.cpp is not installed. Run `pip install 'ft-pipeline[llama-cpp]'`.")
        return Engine("llama.cpp", Path(sys.executable))
    vllm = find_program("vllm") if engine in {"auto", "vllm"} else None
    if vllm is not None:
        return Engine("vllm", vllm)
    if engine == "vllm":
        raise UserError("vLLM is not installed. Run `pip install vllm`, or use --engine transformers.")
    program = find_program("transformers")
    missing = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if program is None or missing:
        missing_parts = ", ".join(missing) or "the program `transformers`"
        raise UserError(
            f"transformers cannot serve without {missing_parts}. Run `pip install 'transformers[serving]'`."
        )
    return Engine("transformers", program)


def find_program(name: str) -> Path | None:
    """Return the program of this name: in the folder of this Python, else on the PATH; None if there is none."""
    local = Path(sys.executable).parent / name
    if local.is_file():
        return local
    path = shutil.which(name)
    return Path(path) if path else None
