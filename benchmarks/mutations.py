"""The mutation score: how many small faults in code that decides the tests find.

    make mutations

mutations.json has the sample: each mutant changes one line of one function (mutation_sample.py drew them). Which tests
run is not part of it: all tests of FOLDERS run once, to see which pass, what they cost and which mutants they reach.
Then each mutant meets the tests that reach it, one file after the other, until one fails. So tests may move between
files and folders, and scores before and after can be compared. A line that moved to another module is found there.
Tests of the kinds long, slow and browser do not count.

One process collects the tests. Each mutant is a fork of it, whose functions get the changed code; the changed file lies
in a copy of the repository, for processes that a test starts. Results go to benchmarks/results/mutations.json.
"""

import argparse
import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine

ROOT = Path(__file__).parent.parent
SAMPLE, RESULTS = Path(__file__).with_suffix(".json"), Path(__file__).parent / "results" / "mutations.json"
_COMPARED, _TABLES = ("contracts", "decide", "evaluation", "golden", "laws", "release"), ("contracts", "laws", "tables")
FOLDERS = {
    "decision": _COMPARED,
    "leads": _COMPARED,
    "splits": _TABLES,
    "rows": _TABLES,
    "store": ("audit", "contracts", "laws", "store"),
}
"""Area → the folders of ft_pipeline_tests whose tests meet its mutants. Those that do not exist are left out."""
OTHER_SUBJECTS = (
    "*export*",
    "*gguf*",
    "*lm_eval*",
    "*ollama*",
    "*push*",
    "*ray*",
    "*serving*",
    "*service*",
    "*worker*",
)
"""Files of tests that publish, serve or score models: they cost much, and their subject is not in the sample."""
USUAL = "not long and not slow and not browser"
TESTS = "ft_pipeline_tests"
LOG = "reached.txt"
REACHED = """

_reached = set()


def reached(number):
    if number not in _reached:
        _reached.add(number)
        with open({log!r}, "a") as log:
            log.write(f"{{number}}\\n")
"""
"""Appended to the package. The processes that tests start write to the same log."""

KILLED, SURVIVED, NOT_REACHED, GONE = "killed", "survived", "not reached", "gone"


@dataclass(frozen=True)
class Mutant:
    """A fault: one line of a function, before and after."""

    area: str
    module: str
    """The path of the file in the repository."""
    function: str
    """Its name, with the classes and functions around it."""
    before: str
    after: str

    def place(self, source: str) -> int | None:
        """Return the number of the line in this source, from 0; None if it is not there, or not there alone."""
        lines = source.splitlines()
        for name, node in functions_in(source):
            if name == self.function:
                found = [at for at in range(node.lineno - 1, node.end_lineno or 0) if lines[at].strip() == self.before]
                return found[0] if len(found) == 1 else None
        return None

    def __str__(self) -> str:
        return f"{self.area}: {self.module}, {self.function}: {self.before} → {self.after}"


@dataclass(frozen=True)
class Place:
    """Where a mutant is in the code as it is now."""

    path: Path
    line: int

    def change(self, after: str) -> str:
        """Return the source with another text in this line."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        old = lines[self.line]
        lines[self.line] = f"{old[: len(old) - len(old.lstrip())]}{after}\n"
        return "".join(lines)


def functions_in(source: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield (qualified name, function) of all functions and methods."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                yield prefix + child.name, child
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)

    return walk(ast.parse(source), "")


def find(mutant: Mutant, root: Path) -> Place | None:
    """Return the place of a mutant: in its module, or else in the only other one with this line in this function."""
    others = sorted((root / "ft_pipeline").rglob("*.py"))
    for paths in ([root / mutant.module], others):
        sources = [(path, path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        found = [Place(path, at) for path, source in sources if (at := mutant.place(source)) is not None]
        if len(found) == 1:
            return found[0]
    return None


def copy(to: Path) -> None:
    """Copy the files of the repository that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def measure(sample: Sequence[Mutant], folders: Sequence[str]) -> dict[str, Any]:
    """Return what mutation_tests.py finds, in a copy of the repository: nothing else is ever changed."""
    with tempfile.TemporaryDirectory(prefix="ftm-") as folder:
        root = Path(folder) / "copy"
        copy(root)
        with (root / "ft_pipeline" / "__init__.py").open("a", encoding="utf-8") as package:
            package.write(REACHED.format(log=str(Path(folder) / LOG)))
        places = [(mutant, find(mutant, root)) for mutant in sample]
        task = [[vars(mutant), place and [str(place.path), place.line]] for mutant, place in places]
        (Path(folder) / "task.json").write_text(json.dumps(task), encoding="utf-8")
        own = {
            "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": folder,
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        tests = [f"{TESTS}/{name}" for name in folders if (root / TESTS / name).exists()]
        command = [sys.executable, "-m", "benchmarks.mutation_tests", folder, *tests]
        with subprocess.Popen(command, cwd=root, env={**os.environ, **own}) as process:
            try:
                process.wait()
            finally:
                process.terminate()  # it ends the tests that run
        if process.returncode:
            raise SystemExit("The tests could not be collected or run: see above.")
        result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    return result


def summary(sample: Sequence[Mutant], found: dict[str, Any]) -> dict[str, Any]:
    """Return the score in total and by area, and the mutants that no test finds."""
    outcomes = list(zip(sample, found.pop("outcomes"), strict=True))
    areas = dict.fromkeys(mutant.area for mutant in sample)
    return {
        "score": _score([outcome for _, outcome in outcomes]),
        "by_area": {area: _score([o for mutant, o in outcomes if mutant.area == area]) for area in areas},
        **found,
        "not_killed": [f"{mutant} ({outcome})" for mutant, outcome in outcomes if outcome != KILLED],
    }


def _score(outcomes: Sequence[str]) -> dict[str, Any]:
    counts = Counter(outcomes)
    return {
        "mutants": len(outcomes),
        **{name.replace(" ", "_"): counts[name] for name in (KILLED, SURVIVED, NOT_REACHED, GONE) if counts[name]},
        "score": round(counts[KILLED] / len(outcomes), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--note", default="", help="other work on the machine")
    parser.add_argument("--only", default="", help="only the mutants that contain this text; writes no results")
    parser.add_argument("--tests", nargs="+", help="only tests in these files or folders; writes no results")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sample = [Mutant(**entry) for entry in json.loads(SAMPLE.read_text(encoding="utf-8"))]
    sample = [mutant for mutant in sample if given.only in str(mutant)]
    tests = given.tests or sorted({name for mutant in sample for name in FOLDERS[mutant.area]})
    result = {"machine": machine.describe(), "note": given.note, **summary(sample, measure(sample, tests))}
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    if not given.only and not given.tests:
        RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
