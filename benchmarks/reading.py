"""How much one has to read for a question: the modules that are entered by imports, and their lines.

Run `python -m benchmarks.reading`. Some questions have a target.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "ft_pipeline"
QUESTIONS = {
    "promotion": ("decide/promote.py", 15, 2000),
    "recommendation": ("decide/advise.py", 15, None),
    "verdict": ("decide/verdict.py", 20, None),
    "between adapter and merged model": ("steps/merged_model.py", None, None),
    "training an adapter": ("steps/adapter.py", None, None),
    "GGUF files": ("gguf/gguf.py", None, None),
    "what the comparison compares": ("steps/comparison.py", None, None),
    "erasing a row": ("erasure/erase.py", None, None),
}
"""By question, the file that answers it, and the largest number of modules, and of lines, that are read for it."""
LONGEST = 400
"""Largest number of lines of a file in decide/."""


def modules_of(path: Path) -> Iterator[Path]:
    """Yield the files of the package that a file imports; a package without code of its own is not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.partition(".")[0] != PACKAGE.name:
                continue
            found = PACKAGE.parent / name.replace(".", "/")
            yield from (file for file in (found.with_suffix(".py"), found / "__init__.py") if file.is_file())


def entered(path: Path) -> set[Path]:
    """Return a file with all that it imports, and that these import."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += modules_of(current)
    return {file for file in seen if lines_of(file) > 1}


def lines_of(path: Path) -> int:
    """Return the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def main() -> int:
    """Print the numbers. Return 1 if one is above its target."""
    too_many = False
    for question, (file, most, most_lines) in QUESTIONS.items():
        files = entered(PACKAGE / file)
        lines = sum(map(lines_of, files))
        limit = "" if most is None else f" (at most {most})"
        print(f"{question}: {len(files)} modules{limit}, {lines:,} lines")
        too_many |= (most is not None and len(files) > most) or (most_lines is not None and lines > most_lines)
        if "--list" in sys.argv:
            print("".join(f"    {lines_of(path):4} {path.relative_to(PACKAGE)}\n" for path in sorted(files)), end="")
    for path in sorted((PACKAGE / "decide").rglob("*.py")):
        if lines_of(path) > LONGEST:
            print(f"{path.relative_to(PACKAGE)} has {lines_of(path)} lines (at most {LONGEST})")
            too_many = True
    return int(too_many)


if __name__ == "__main__":
    sys.exit(main())
