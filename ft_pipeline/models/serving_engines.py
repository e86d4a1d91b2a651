"""The programs that serve a model: where they are, and how they are started."""

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ft_pipeline.errors import UserError
from ft_pipeline.models.compute_setting import ask_compute

EngineName = Literal["vllm", "transformers"]
HOST = "127.0.0.1"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""The engine's environment: the model is here, and nobody is told of it."""


@dataclass(frozen=True)
class Engine:
    """A program that answers as an OpenAI-compatible endpoint."""

    name: EngineName
    program: Path

    def command(self, model: str, folder: Path, port: int) -> list[str]:
        """What starts it in `folder`, which holds the model's files under its name; in the compute type of this
        machine, which scoring uses too. It takes the seconds that an import of torch takes."""
        compute = ask_compute()
        place = ["--host", HOST, "--port", str(port), "--dtype", compute["dtype"]]
        if self.name == "transformers":
            # Left to itself it takes a Mac's GPU, on which nothing was scored.
            device = ["--device", "cpu"] if compute["device"] == "cpu" else []
            return [str(self.program), "serve", model, *place, *device]
        return [
            str(self.program), "serve", str(folder / model), "--served-model-name", model, *place,
            # vLLM samples at temperature 1 where a request and the model say nothing; and any web page may ask it.
            "--override-generation-config", '{"temperature": 0}',
            "--chat-template-content-format", "string",
            "--allowed-origins", "[]",
        ]  # fmt: skip


def find_engine(wanted: Literal["auto", "vllm", "transformers"]) -> Engine:
    """The engine by name; `auto` is vLLM where it is installed. UserError where it is not installed."""
    vllm = find_program("vllm") if wanted in {"auto", "vllm"} else None
    if vllm is not None:
        return Engine("vllm", vllm)
    if wanted == "vllm":
        raise UserError("vllm is not installed here; install it (pip install vllm), or use --engine transformers")
    program = find_program("transformers")
    missing = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if program is None or missing:
        lacks = ", ".join(missing) or "the program `transformers`"
        raise UserError(f"transformers cannot serve here, it lacks {lacks}: pip install 'transformers[serving]'")
    return Engine("transformers", program)


def find_program(name: str) -> Path | None:
    """Beside this Python, else on the PATH."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    found = shutil.which(name)
    return Path(found) if found else None
