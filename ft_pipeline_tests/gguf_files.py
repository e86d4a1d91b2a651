"""A tiny model that is converted to GGUF once for all tests: the conversion starts a process that imports torch."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from ft_pipeline.gguf import convert as converting
from ft_pipeline.gguf.convert import convert
from ft_pipeline_tests.forked_process import ForkedProcess
from ft_pipeline_tests.tiny_spm import spm_model

RUN_SCRIPT = """
import runpy, sys
from pathlib import Path
for name in [name for name in sys.modules if name.split(".")[0] in ("gguf", "conversion")]:
    del sys.modules[name]  # the script has its own
del sys.argv[0]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Converted:
    """A model folder, and its GGUF file in 32 bit."""

    model: Path
    exact: Path


def convert_tiny(folder: Path) -> Converted:
    """Make a model in `folder`, and convert it. What another process has made there is kept, or waited for."""
    made = Converted(folder / "model", folder / "exact.gguf")
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not made.exact.exists():
            convert(spm_model(made.model), made.exact, "tiny")
    return made


@contextlib.contextmanager
def converted_in_forks() -> Iterator[None]:
    """Conversions run llama.cpp's script in a fork of the test, which has torch. `convert_tiny` does as the package."""

    def run(command: list[str], *, cwd: Path, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        with contextlib.chdir(cwd):
            process = ForkedProcess(RUN_SCRIPT, *command[1:], **env)
        output, errors = process.communicate()
        return subprocess.CompletedProcess(command, process.wait(), output + errors)

    with pytest.MonkeyPatch.context() as patch:
        known = {"run": run, "PIPE": subprocess.PIPE, "STDOUT": subprocess.STDOUT}
        patch.setattr(converting, "subprocess", SimpleNamespace(**known))
        yield
