"""The recording of a terminal for the README: what docs/pictures/terminal.py draws."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[1] / "docs"
RUNS = ((0, "$ ft run", "default", True), (20, "<ok> & done", "green", False), (50, "━━", "3a3a3a", False))


@pytest.fixture(scope="module")
def terminal() -> Any:
    """The script."""
    spec = spec_from_file_location("terminal", DOCS / "pictures" / "terminal.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_loads_nothing_and_ends_on_the_last_screen(terminal: Any) -> None:
    rest = ((),) * (terminal.ROWS - 1)
    picture = terminal.draw([((), *rest), (RUNS, *rest)])
    root = ElementTree.fromstring(picture)
    assert re.findall(r"https?://[^\"']+", picture) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"url\(|@import|<script|<image", picture)
    assert {name[:1] for name in re.findall(r'href="([^"]*)"', picture)} == {"#"}, "links lead to parts of the picture"
    width = float(root.attrib["width"])
    assert f".film{{transform:translateX(-{width:g}px)" in picture, "the last screen without the animation"
    assert "prefers-reduced-motion" in picture
    texts = [(text.text, float(text.attrib["x"])) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [("$ ft run", 0.0), ("<ok> & done", 20 * terminal.CELL), ("━━", 50 * terminal.CELL)]
    assert root.attrib["aria-label"] == "$ ft run<ok> & done━━"


def test_what_a_program_prints_is_recorded_with_its_time(terminal: Any, tmp_path: Path) -> None:
    texts = list(terminal._output(["sh", "-c", "stty size; echo ✓"], tmp_path, {"PATH": "/usr/bin:/bin"}))
    assert "".join(texts) == f"{terminal.ROWS} {terminal.COLUMNS}\r\n✓\r\n"
    with pytest.raises(SystemExit, match="exit code 3"):
        list(terminal._output(["sh", "-c", "exit 3"], tmp_path, {"PATH": "/usr/bin:/bin"}))
