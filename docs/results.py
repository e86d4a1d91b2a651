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
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import page_numbers  # docs/ is no package

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"
REGION = re.compile(r"(<!-- results: (\S+) (\w+)((?: \w+=\S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
EARLIER = RESULTS / "earlier.yaml"
INTERVAL = "95 % interval"
KINDS_OF_CPU = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
"""By Linux's name of an instruction set, the fastest first."""
Result = Mapping[str, Any]


def read(name: str) -> dict[str, Any]:
    """Return a result of docs/results, or of benchmarks/results (`benchmarks/training`)."""
    folder, _, rest = name.rpartition("/")
    path = ROOT / folder / "results" / f"{rest}.json" if folder else RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _interval(
    ends: Sequence[float | None] | None, digits: int, scale: float = 1, sign: str = "", unit: str = ""
) -> str:
    """Return a value with its interval; empty without a value."""
    if ends is None or ends[0] is None:
        return ""
    value, low, high = (None if end is None else end * scale for end in ends)
    around = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:{sign}.{digits}f}{unit}{around}".replace("-", "−")


def _number(value: float | None, digits: int, scale: float = 1, unit: str = "") -> str:
    return "" if value is None else f"{value * scale:.{digits}f}{unit}"


def _score(row: Result, metric: str) -> Sequence[float | None] | None:
    scores: Mapping[str, Any] = row["scores"]
    return scores.get(metric)


def _percent(row: Result, metric: str) -> str:
    return _interval(_score(row, metric), 0, 100, unit=" %")


def _better_answers(row: Result, result: Result) -> str:
    count = row.get("better_answers")
    return "" if count is None else f"{count} of {result['rows_read']['test_answers']}"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


COLUMNS: dict[str, tuple[str, Callable[[Result, Result], str]]] = {
    "lead": (
        f"predicts people's answers better than the best prompt by ({INTERVAL})",
        lambda row, _: _interval(row.get("better_by_percent"), 0, sign="+", unit=" %"),
    ),
    "better": ("better in so many test answers", _better_answers),
    "nats_per_byte": (
        "nats per byte: how unexpected people's answers are, lower is better",
        lambda row, _: _interval(_score(row, "nats_per_byte"), 3),
    ),
    "loss": (
        "loss: the same per token, in nats, lower is better",
        lambda row, _: _interval(_score(row, "loss"), 3),
    ),
    "chrf": (
        "chrF: how similar its answers are to people's, 0 to 100",
        lambda row, _: _number((_score(row, "chrf") or [None])[0], 1),
    ),
    "rouge_l": (
        "ROUGE-L: words shared in order, 0 to 1",
        lambda row, _: _number((_score(row, "rouge_l") or [None])[0], 3),
    ),
    "cut_off": ("answers that do not end", lambda row, _: _number(row["cut_off"], 0, 100, " %")),
    "length": ("length, people's = 1", lambda row, _: _number((_score(row, "length_ratio") or [None])[0], 2)),
    "general": (
        "general questions right",
        lambda row, _: _number((_score(row, "general_accuracy") or [None])[0], 0, 100, " %"),
    ),
    "prompt_tokens": ("prompt tokens per call", lambda row, _: _number(row["prompt_tokens"], 0)),
    "seconds": ("seconds per call", lambda row, _: _number(row["seconds_per_call"], 2)),
    "training": ("training time", lambda row, _: _minutes(row["training_seconds"])),
}
"""By name: the heading of a column, and its cell for a row of a result. Any other name is a metric that is a share."""
LIKELIHOOD_COLUMNS = ("lead", "better", "chrf", "cut_off", "length", "general", "prompt_tokens", "seconds")
CHECK_COLUMNS = ("cut_off", "general", "prompt_tokens", "seconds")
"""Columns if no likelihood decides, after the metric that does."""


def scores(result: Result, rows: str = "", columns: str = "") -> str:
    """The table of scores. rows, columns: names, separated by commas; by default all rows but the champion's own."""
    by_likelihood = any("better_by_percent" in row for row in result["rows"].values())
    default = LIKELIHOOD_COLUMNS if by_likelihood else (result["metric"], *CHECK_COLUMNS)
    wanted = columns.split(",") if columns else list(default)
    pairs = [COLUMNS.get(name) or (name, lambda row, _, name=name: _percent(row, name)) for name in wanted]
    compared = [name for name, row in result["rows"].items() if row["kind"] != "champion"]
    shown = rows.split(",") if rows else compared
    cells = [[_name(name, result)] + [cell(result["rows"][name], result) for _, cell in pairs] for name in shown]
    return _table(["", *(head for head, _ in pairs)], cells)


def _name(name: str, result: Result) -> str:
    row = result["rows"][name]
    learned = f", trained on {row['learned_from']}" if row["learned_from"] else ""
    fault = "" if row["usable"] else ", not usable"
    return f"`{name}`: {row['what']}{learned}{fault}"


def own_targets(result: Result, experiments: str = "") -> str:
    """What each training was to improve on its held-out rows."""
    wanted = experiments.split(",") if experiments else list(result["own_targets"])
    cells = [
        [f"`{name}`", target["label"], target["values"], target["change"], target["verdict"]]
        for name in wanted
        for target in result["own_targets"][name]
    ]
    return _table(["experiment", "own target", "before → after", f"change ({INTERVAL})", ""], cells)


def verdict(result: Result) -> str:
    """The verdict in its own words."""
    return f"> **{result['verdict']['sentence']}** {result['verdict']['basis']}".rstrip()


def run(result: Result) -> str:
    """Where the numbers come from, as a sentence."""
    machine, rows = result["machine"], result["rows_read"]
    kind = next(
        (f" with {name}" for key, name in KINDS_OF_CPU.items() if key in (machine["instruction_sets"] or ())), ""
    )
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    note = f", {result['note']}" if result["note"] else ""
    return (
        f"Measured on {result['date']} with `{result['command']}` on {machine['cores']} cores ({machine['cpu']}"
        f"{kind}, {threads}, {machine['computed_in']}{note}), version {result['version']}, commit "
        f"`{result['commit'][:8]}`: {rows['test_answers']} test answers of {rows['test_conversations']} conversations."
    )


def steps(result: Result) -> str:
    """The seconds of each step, and of all."""
    taken = result["seconds"]
    cells = [[f"`{name}`", _minutes(seconds)] for name, seconds in taken["steps"].items()]
    return _table(["step", "time"], [*cells, ["all steps", _minutes(taken["all_steps"])]])


def answer(result: Result, pick: str = "typical") -> str:
    """A test question, the answers of the untouched model and of the chosen one, and a person's. pick: `typical` (the
    median gain), `good` (the 90th percentile) or `worst`."""
    chosen = next(each for each in result["answers"] if pick in each["name"])
    before, after = chosen["models"]
    asked = [f"**{turn['role']}:** {turn['text']}" for turn in chosen["turns"]]
    question = asked[0].partition(" ")[2] if len(asked) == 1 else "<br>".join(asked)
    cells = [
        ["a customer asks", question],
        [f"`{before}`, untouched", chosen["before"]],
        [f"`{after}`, tuned", chosen["after"]],
        ["a person's answer", chosen["reference"]],
    ]
    return _table(["", f"the {chosen['name']} case by gain"], cells)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.strip().replace("|", "\\|").replace("\n", "<br>")


RENDERERS: dict[str, Callable[..., str]] = {
    each.__name__: each for each in (scores, own_targets, verdict, run, steps, answer)
}


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
    yield from sorted((ROOT / "examples").glob("*/README.md"))


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
