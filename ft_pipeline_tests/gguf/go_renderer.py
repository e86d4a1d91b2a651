"""Ollama's rules for a Modelfile and its template, run by Go's own text/template. Ollama itself is not needed."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[1] / "fixtures" / "ollama" / "render.go"
Conversation = Sequence[dict[str, Any]]


class GoRenderer:
    """A process that reads Modelfiles and renders conversations."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def read(self, modelfile: str, conversations: Iterable[Conversation] = ()) -> dict[str, Any]:
        """Return what Ollama reads from a Modelfile, and `prompts`: for each conversation `prompt` or `error`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"modelfile": modelfile, "conversations": [list(messages) for messages in conversations]}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def prompts(self, modelfile: str, conversations: Iterable[Conversation]) -> list[str]:
        """Return the prompts; they must all be rendered."""
        reply = self.read(modelfile, conversations)
        assert "error" not in reply, reply["error"]
        assert not [prompt["error"] for prompt in reply["prompts"] if "error" in prompt]
        return [prompt["prompt"] for prompt in reply["prompts"]]


@contextmanager
def go_renderer(folder: Path, cache: Path) -> Iterator[GoRenderer]:
    """Compile the program (a few seconds, less if `cache` has its parts), and run it. Skips the test without Go."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs Go: apt install golang-go")
    own = {"GO111MODULE": "off", "GOCACHE": str(cache), "GOPATH": str(folder), "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    program = folder / "render"
    subprocess.run([go, "build", "-o", program, SOURCE], env={**os.environ, **own}, check=True)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as run:
        yield GoRenderer(run)
        assert run.stdin is not None
        run.stdin.close()
