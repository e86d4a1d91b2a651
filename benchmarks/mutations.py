"""The mutation score: how many small faults in code that decides the tests find.

    make mutations                                        # of the present commit
    .venv/bin/python -m benchmarks.mutations --commit ID  # of another one, with its own tests

mutation_sample.py draws the same number of mutants of each area from the code of the commit: a fault in one line of one
function. Which tests run is not part of the sample: all tests of FOLDERS run once, to see which pass, what they cost
and which mutants they reach. Then each mutant meets the tests that reach it, the cheap ones first, until one fails,
or two minutes are over. Tests of the kinds long, slow and browser do not count. A run takes about 20 minutes of CPU
time.

How scores of two commits compare: lines that both have are drawn in both, wherever they are, so where code stayed the
same faults are counted (`in_all_commits`). Where it was written anew, other lines are drawn by the same rule, and only
the shares of an area can be compared: of 25 mutants, one is 4 %. CHANGE_NOTHING names those that no test can find; they
do not count.

The commit is cloned. One process collects the tests there. Each mutant is a fork of it, whose functions get the changed
code; the changed file lies in the clone, for processes that a test starts. benchmarks/results/mutations.json keeps a
result for each commit that was measured. After tests were added, `--after ID` tries what survived there alone.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.mutation_sample import AREAS, Mutant, sample

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "mutations.json"
_COMPARED, _TABLES = (
    ("decide", "evaluation", "golden", "laws", "release"),
    ("contracts/test_formats.py", "laws", "tables"),
)
FOLDERS = {
    "decision": _COMPARED,
    "leads": _COMPARED,
    "splits": _TABLES,
    "rows": _TABLES,
    "store": ("audit", "laws", "store"),
}
"""Area → the folders of ft_pipeline_tests, and files, whose tests meet its mutants. Those that a commit lacks are left
out."""
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

OUTCOMES = KILLED, SURVIVED, NOT_REACHED = "killed", "survived", "not_reached"
CHANGE_NOTHING = {
    "HeldOut._near: return np.where(matches >= 0, matches, np.where(same_prompt < len(held_out), same_prompt, -1)) → "
    "return np.where(matches >= 0, matches, np.where(same_prompt < len(held_out), same_prompt, -2))": "both mean none",
    "Spill.append: if self._bytes > MEMORY_BYTES: → if self._bytes >= MEMORY_BYTES:": "a file has what memory had",
    'process_batch: table=table.add_column(table.num_columns - 1, "row", pa.array(rows)), → '
    'table=table.add_column(table.num_columns - 2, "row", pa.array(rows)),': "build.py takes the columns by name",
}
"""The name of a mutant → why no test can find it. A reader of the survivors found them; they do not count."""


def clone(commit: str, to: Path) -> str:
    """Clone the repository at a commit, with the present scripts of this benchmark. Return the commit's short name."""
    subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", str(ROOT), str(to)], check=True)
    subprocess.run(["git", "checkout", "-q", commit], cwd=to, check=True)
    for script in Path(__file__).parent.glob("mutation*.py"):
        shutil.copy2(script, to / "benchmarks" / script.name)
    named = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=to, check=True, capture_output=True, text=True)
    return named.stdout.strip()


def measure(given: argparse.Namespace, known: Set[str]) -> tuple[str, dict[str, Any]]:
    """Return the short name of a commit, and what its tests find by area. Only its clone is ever changed.

    known: the names of mutants that are not tried again, since tests find them.
    """
    with tempfile.TemporaryDirectory(prefix="ftm-") as folder:
        root = Path(folder) / "clone"
        commit = clone(given.commit, root)
        drawn = [mutant for mutant in sample(root) if mutant.area in given.areas and given.only in str(mutant)]
        mutants = [mutant for mutant in drawn if mutant.name not in known]
        (Path(folder) / "task.json").write_text(json.dumps([asdict(mutant) for mutant in mutants]), encoding="utf-8")
        with (root / "ft_pipeline" / "__init__.py").open("a", encoding="utf-8") as package:
            package.write(REACHED.format(log=str(Path(folder) / LOG)))
        own = {
            "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": folder,
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        folders = sorted({f"{TESTS}/{name}" for mutant in mutants for name in FOLDERS[mutant.area]})
        asked = given.tests or [name for name in folders if (root / name).exists()]
        command = [sys.executable, "-m", "benchmarks.mutation_tests", folder, *asked]
        with subprocess.Popen(command, cwd=root, env={**os.environ, **own}) as process:
            try:
                process.wait()
            finally:
                process.terminate()  # it ends the tests that run
        if process.returncode:
            raise SystemExit("The tests could not be collected or run: see above.")
        found: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    outcomes = dict(zip(mutants, found.pop("outcomes"), strict=True))
    return commit, {area: {**found, "mutants": _by_outcome(area, drawn, outcomes)} for area in given.areas}


def _by_outcome(area: str, drawn: Sequence[Mutant], outcomes: Mapping[Mutant, str]) -> dict[str, list[str]]:
    """Return the names of an area's mutants by what became of them. Those without an outcome are known as killed."""
    found = [
        (f"{mutant.module}, {mutant.name}", outcomes.get(mutant, KILLED)) for mutant in drawn if mutant.area == area
    ]
    return {of: [name for name, outcome in found if outcome == of] for of in OUTCOMES}


def with_scores(results: dict[str, Any]) -> dict[str, Any]:
    """Return results by commit with the scores of each area and of all, and of the mutants that all commits have."""
    for result in results.values():
        for name, area in result["areas"].items():
            every = [_names(other["areas"][name]) for other in results.values() if name in other["areas"]]
            same, killed, counted = set.intersection(*every), _names(area, KILLED), _names(area)
            area["score"] = _share(killed, counted)
            area["in_all_commits"] = _share(killed & same, same)
        areas = result["areas"].values()
        result["score"] = _share(
            *([name for area in areas for name in _names(area, *of)] for of in ([KILLED], OUTCOMES))
        )
    return results


def _names(area: Mapping[str, Any], *outcomes: str) -> set[str]:
    """Return the names of an area's mutants with these outcomes, or with any, without their modules and without those
    that change nothing."""
    found = {named.partition(", ")[2] for of in outcomes or OUTCOMES for named in area["mutants"][of]}
    return found - CHANGE_NOTHING.keys()


def _share(killed: Collection[str], counted: Collection[str]) -> dict[str, Any]:
    share = round(len(killed) / len(counted), 3) if counted else None
    return {"mutants": len(counted), "killed": len(killed), "share": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--areas", nargs="+", default=list(AREAS), choices=list(AREAS), help="the others are kept")
    parser.add_argument("--note", default="", help="other work on the machine")
    parser.add_argument("--after", default="", help="what this commit's result has as killed is not tried again")
    parser.add_argument("--only", default="", help="only mutants that contain this text; writes no results")
    parser.add_argument("--tests", nargs="+", default=(), help="only tests of these files: may find fewer")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    earlier = results[given.after]["areas"].values() if given.after else ()
    commit, areas = measure(given, {name for area in earlier for name in _names(area, KILLED)})
    if given.only:
        print(json.dumps(areas, indent=1, ensure_ascii=False))
        return
    about = {"machine": machine.describe(), "note": given.note, "after": given.after, "score": None}
    results[commit] = {**about, "areas": {**results.get(commit, {"areas": {}})["areas"], **areas}}
    text = json.dumps(with_scores(results), indent=1, ensure_ascii=False)
    RESULTS.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
