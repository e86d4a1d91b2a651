"""What the test suite costs, by folder and kind of test, and which tests cost most.

    make test        # writes build/suite.xml
    python -m benchmarks.suite build/suite.xml

CPU seconds, including those of the processes that a test starts, do not depend on other work on the machine; wall
seconds do. But workers that are forks of one process (execution/workers/fork_server.py) have only wall seconds.
Results go to benchmarks/results/suite.json, those of `make nightly` and `make stories` beside it (--name).
"""

import argparse
import json
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS = Path(__file__).parent / "results"
LONG = 2.0
"""CPU seconds. Few tests are above, and they take most of the time."""


@dataclass(frozen=True, slots=True)
class Test:
    """A finished test. Times in seconds, of its fixtures, too."""

    folder: str
    name: str
    kind: str
    cpu: float
    wall: float


def read(report: Path) -> list[Test]:
    """Read what `pytest --junitxml` wrote. Skipped tests are left out."""
    return [_test(case) for case in ET.parse(report).iter("testcase") if case.find("skipped") is None]


def _test(case: ET.Element) -> Test:
    found = {item.get("name"): item.get("value") for item in case.iter("property")}
    _, *path = case.attrib["classname"].split(".")
    return Test(
        folder=path[0] if len(path) > 1 else "(root)",
        name=f"{'/'.join(path)}.py::{case.attrib['name']}",
        kind=found.get("kind") or "usual",
        cpu=float(found.get("cpu_seconds") or 0),
        wall=float(case.attrib["time"]),
    )


def summary(tests: Sequence[Test], dearest: int = 40) -> dict[str, Any]:
    """Return counts and times in total, by folder, by kind, and the `dearest` tests."""
    by_folder, by_kind = defaultdict(list), defaultdict(list)
    for test in tests:
        by_folder[test.folder].append(test)
        by_kind[test.kind].append(test)
    above = [test for test in tests if test.cpu > LONG]
    total = sum(test.cpu for test in tests)
    return {
        "total": _times(tests),
        f"above_{LONG:g}_cpu_seconds": {**_times(above), "share_of_cpu": round(sum(t.cpu for t in above) / total, 3)},
        "by_folder": {name: _times(by_folder[name]) for name in sorted(by_folder)},
        "by_kind": {name: _times(by_kind[name]) for name in sorted(by_kind)},
        "dearest": {t.name: t.cpu for t in sorted(tests, key=lambda test: -test.cpu)[:dearest]},
    }


def _times(tests: Iterable[Test]) -> dict[str, float]:
    tests = list(tests)
    return {
        "tests": len(tests),
        "cpu_seconds": round(sum(test.cpu for test in tests), 1),
        "wall_seconds": round(sum(test.wall for test in tests), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+", help="of one run: `make test-all` writes two")
    parser.add_argument("--name", default="suite", help="of the file of results")
    parser.add_argument("--note", default="", help="what ran, and other work on the machine")
    given = parser.parse_args()
    tests = [test for report in given.reports for test in read(report)]
    result = {"machine": machine.describe(), "note": given.note, **summary(tests)}
    (RESULTS / f"{given.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
