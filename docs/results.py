"""Results of finished projects, and the tables of the pages that show them.

    python docs/results.py take demo . --command "make demo"   # docs/results/demo.json and docs/images/results-demo.png
    python docs/results.py record install --command "make demo-small" seconds_to_report=290   # any other measurement
    python docs/results.py render                              # fills the tables of README.md and the other pages
    python docs/results.py check                               # pages that differ from their results

A page shows a table of a result between `<!-- results: NAME WHAT key=value … -->` and `<!-- end -->`. WHAT is one of
RENDERERS. A number in a sentence stands between `<!-- value: NAME KEY FORMAT -->` and `<!-- end -->`, on one line. KEY
is the path of a number, or of a value with its interval. FORMAT is the number of decimals and, if the number is not
shown as it is, a unit: `0%` (a share in percent), `1points` (the same without the sign), `0min` (seconds in minutes).
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from result_tables import RENDERERS, Result, formatted  # docs/ is no package

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"
REGION = re.compile(r"(<!-- results: (\S+) (\w+)((?: \w+=\S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: (\S+) (.+?) (\d)(%|points|min|) -->).*?(<!-- end -->)")


def read(name: str) -> dict[str, Any]:
    """Return a result of docs/results, or of benchmarks/results (`benchmarks/training`)."""
    folder, _, rest = name.rpartition("/")
    path = ROOT / folder / "results" / f"{rest}.json" if folder else RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def rendered(text: str) -> str:
    """Return a page with its regions filled."""

    def fill(match: re.Match[str]) -> str:
        begin, name, what, options, end = match.groups()
        keywords = dict(option.split("=", 1) for option in options.split())
        return f"{begin}\n{RENDERERS[what](read(name), **keywords)}\n\n{end}"

    def value(match: re.Match[str]) -> str:
        begin, name, key, digits, unit, end = match.groups()
        return f"{begin}{formatted(_part(read(name), key), int(digits), unit)}{end}"

    return VALUE.sub(value, REGION.sub(fill, text))


def _part(document: Any, key: str) -> Any:
    """Return the part of a result that a path names. Names in it may contain points; a number is a position in a list.

    Raises KeyError if the result has no such part."""
    if not key:
        return document
    if isinstance(document, list):
        head, _, rest = key.partition(".")
        return _part(document[int(head)], rest)
    for name in sorted(document, key=len, reverse=True):
        if key == name or key.startswith(f"{name}."):
            return _part(document[name], key[len(name) + 1 :])
    raise KeyError(key)


def pages() -> Iterator[Path]:
    """The pages that may show results."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))
    yield ROOT / "data" / "README.md"
    yield ROOT / "benchmarks" / "README.md"
    yield from sorted((ROOT / "examples").rglob("README.md"))


def problems() -> list[str]:
    """Return a sentence for each page that differs from its results."""
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    return [
        f"{page.relative_to(ROOT)}: a number differs from its result. Run `python docs/results.py render`."
        for page, text in texts.items()
        if rendered(text) != text
    ]


def take(name: str, project: Path, command: str, note: str, threads: int) -> None:
    """Write the result of a finished project, and its picture."""
    from results_of import FinishedProject

    finished = FinishedProject(project)
    _write(name, finished.to_json(command, note, threads))
    if (picture := finished.picture()) is not None:
        (IMAGES / f"results-{name}.png").write_bytes(picture)


def record(name: str, command: str, note: str, threads: int, values: Sequence[str]) -> None:
    """Write a result of numbers that were measured in another way. values: `key=number`."""
    from importlib.metadata import version

    from results_of import machine

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    numbers = {key: float(value) for key, _, value in (each.partition("=") for each in values)}
    _write(
        name,
        {
            "date": f"{date.today()}",
            "command": command,
            "note": note,
            "version": version("ft-pipeline"),
            "commit": commit.strip(),
            "machine": {**machine.describe(), "threads": threads},
            **numbers,
        },
    )


def _write(name: str, result: Result) -> None:
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    taking = commands.add_parser("take", help="write the result of a finished project, on the machine that it ran on")
    taking.add_argument("name")
    taking.add_argument("project", type=Path)
    recording = commands.add_parser("record", help="write other numbers that were measured on this machine")
    recording.add_argument("name")
    recording.add_argument("values", nargs="+", metavar="KEY=NUMBER")
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    for each in (taking, recording):
        each.add_argument("--command", required=True, help="what was run")
        each.add_argument("--note", default="", help="what else ran on the machine, e.g. `next to other work`")
        each.add_argument("--threads", type=int, default=threads, help="threads of a worker (default: %(default)s)")
    for name, help_text in (("render", "fill the pages"), ("check", "list pages that differ")):
        commands.add_parser(name, help=help_text)
    arguments = parser.parse_args()
    if arguments.what == "take":
        take(arguments.name, arguments.project, arguments.command, arguments.note, arguments.threads)
    elif arguments.what == "record":
        record(arguments.name, arguments.command, arguments.note, arguments.threads, arguments.values)
    elif arguments.what == "render":
        for page in pages():
            text = page.read_text(encoding="utf-8")
            page.write_text(rendered(text), encoding="utf-8")
    else:
        found = problems()
        print("\n".join(found) or "Every page shows its results.")
        return 1 if found else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
