"""Lines of worlds that are not measured again keep their results, if those are of as many worlds."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import worlds


@dataclass(frozen=True)
class Line:
    name: str


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, list[int]]:
    monkeypatch.setattr(sys, "argv", ["worlds", *arguments])
    worlds.run("", folder / "found.json", (Line("null"), Line("third")), lambda line, count, seed: [count, seed])
    found: dict[str, list[int]] = json.loads((folder / "found.json").read_text(encoding="utf-8"))["lines"]
    return found


def test_lines_of_other_worlds_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, monkeypatch, "--worlds", "4", "--lines", "third") == {"third": [4, 0]}
    assert run(tmp_path, monkeypatch, "--worlds", "4", "--lines", "null") == {"null": [4, 0], "third": [4, 0]}
    assert run(tmp_path, monkeypatch, "--worlds", "4", "--seed", "1", "--lines", "null") == {"null": [4, 1]}
    assert run(tmp_path, monkeypatch, "--worlds", "5") == {"null": [5, 0], "third": [5, 0]}
