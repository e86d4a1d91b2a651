""".devcontainer: the file is valid, and what it starts exists."""

import json
import re
from pathlib import Path

from ft_pipeline.doctor import UI_PORT

ROOT = Path(__file__).parents[1]
SETTINGS = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))


def test_its_command_is_a_target_of_the_makefile() -> None:
    program, target = SETTINGS["postCreateCommand"].split()
    assert program == "make" and re.search(
        rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )


def test_it_forwards_the_port_of_the_ui() -> None:
    assert SETTINGS["forwardPorts"] == [UI_PORT] and set(SETTINGS["portsAttributes"]) == {str(UI_PORT)}


def test_it_has_the_python_of_the_image_and_the_browser_of_ci() -> None:
    (python,) = re.findall(r"python:(3\.\d+)-", SETTINGS["image"])
    assert f"FROM python:{python}-" in (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert "chromium" in SETTINGS["onCreateCommand"] and "chromium" in (ROOT / ".ci" / "run").read_text(
        encoding="utf-8"
    )
