"""examples/read_me_first.py: the path for newcomers uses the package as it is, and runs from rows to a verdict."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ft_pipeline

ROOT = Path(ft_pipeline.__file__).parent.parent
EXAMPLE = ROOT / "examples" / "read_me_first.py"
MOST_LINES = 175
"""More lines are no simple path."""


def text() -> str:
    return EXAMPLE.read_text(encoding="utf-8")


def imported() -> list[tuple[str, str]]:
    """Return (module, name) for each name that the example imports from the package."""
    found = [node for node in ast.walk(ast.parse(text())) if isinstance(node, ast.ImportFrom)]
    return [(node.module, alias.name) for node in found for alias in node.names if node.module]


def defines(module: str, name: str) -> bool:
    """Return whether a module defines a name at its top level, or is a package with a module of that name.

    Nothing is imported: the libraries of the example take longer to load than a usual test may.
    """
    path = ROOT.joinpath(*module.split("."))
    if path.is_dir():
        return (path / f"{name}.py").is_file()
    body = ast.parse(path.with_suffix(".py").read_text(encoding="utf-8")).body
    named = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign)]
    return name in named | {target.id for target in targets if isinstance(target, ast.Name)}


def test_each_imported_name_is_defined_where_it_is_imported_from() -> None:
    names = [(module, name) for module, name in imported() if module.startswith("ft_pipeline")]
    assert len(names) > 20
    assert [f"{module}: {name}" for module, name in names if not defines(module, name)] == []


def test_the_example_is_short_and_flat() -> None:
    tree = ast.parse(text())
    assert len(text().splitlines()) <= MOST_LINES
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_the_files_to_open_next_exist() -> None:
    comments = " ".join(line.lstrip("# ") for line in text().splitlines() if line.startswith("# "))
    named = re.findall(r"[a-z_]+(?:/[a-z_]+)*\.py", comments)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "ft_pipeline" / name).is_file()] == []


@pytest.mark.long
@pytest.mark.story
def test_it_goes_from_rows_to_a_verdict() -> None:
    run = subprocess.run([sys.executable, str(EXAMPLE)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (
        "1 rows           121 read = 117 accepted + 4 quarantined {'empty_output': 2, 'invalid_json': 2}" in run.stdout
    )
    assert "⟦delivery<|im_end|>⟧" in run.stdout
    led = re.findall(r"lead of lora/adapter over (\w+): \+\S+ \(\+", run.stdout)
    assert sorted(led) == ["base", "instructions", "majority"]  # each by more than chance
    assert "8 decision       word_model beats majority" in run.stdout
    assert "8 verdict        " in run.stdout and "Use the fine-tuned model" not in run.stdout
