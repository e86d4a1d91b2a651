"""Results of finished projects, and the tables of the pages that show them.

    python docs/results.py take demo . --command "make demo"   # docs/results/demo.json and docs/images/results-demo.png
    python docs/results.py record install --command "make demo-small" seconds_to_report=290   # any other measurement
    python docs/results.py render                              # fills the tables of README.md and the other pages
    python docs/results.py check                               # numbers of the pages that nothing covers
    python docs/results.py earlier                             # drafts entries of earlier.yaml for these

A page shows a result between `<!-- results: NAME WHAT key=value … -->` and `<!-- end -->`. WHAT is one of RENDERERS.
How numbers in sentences are compared with a result is described in page_numbers.py.
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
import page_numbers  # docs/ is no package
from result_tables import RENDERERS, Result

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"
REGION = re.compile(r"(<!-- results: (\S+) (\w+)((?: \w+=\S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
EARLIER = RESULTS / "earlier.yaml"


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

    return REGION.sub(fill, text)


def pages() -> Iterator[Path]:
    """The pages whose numbers are compared."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))
    yield ROOT / "data" / "README.md"
    yield ROOT / "benchmarks" / "README.md"
    yield from sorted((ROOT / "examples").rglob("README.md"))


def problems() -> list[str]:
    """Return a sentence for each number that no result and no earlier measurement covers, and for each page that shows
    an older table."""
    found = []
    for page in pages():
        text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
        if rendered(text) != text:
            found.append(f"{name}: a table differs from its result. Run `python docs/results.py render`.")
        found += [
            f"{name}: {problem}" for problem in page_numbers.problems(name, text, read, page_numbers.load(EARLIER))
        ]
    return found


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
    for name, help_text in (("render", "fill the tables"), ("check", "list problems"), ("earlier", "draft entries")):
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
    elif arguments.what == "earlier":
        for page in pages():
            print(page_numbers.draft(ROOT, page, page_numbers.load(EARLIER)), end="")
    else:
        found = problems()
        print("\n".join(found) or "Every number is covered.")
        return 1 if found else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
