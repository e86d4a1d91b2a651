"""How long `ft audit` takes in a project that was run many times, with Dagster's database gone.

    python benchmarks/audit.py [--runs 200] [--times 5] [--project DIR]

Every run of the made-up project had a new row and another learning rate, so each one left 23 artifacts and a champion
record: real snapshots, tables and manifests, and stand-ins of a few bytes for what a GPU would make. Each command is
then timed as a user has it, from the start of the process to its end, with warm file caches. Results go to
benchmarks/results/audit.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

from ft_pipeline_tests.audit.shop import Shop

RESULTS = Path(__file__).parent / "results" / "audit.json"
LIMIT_SECONDS = 2.0
"""What `ft audit` without --verify may take at 200 runs."""
COMMANDS = {
    "the tree": ["audit"],
    "as JSON": ["audit", "--json"],
    "an old champion": ["audit", "champion@1"],
    "which rows": ["audit", "--rows"],
    "which rows were left out": ["audit", "--left-out"],
    "a sentence": ["audit", "--sentence", "Where is the kettle that I ordered on day 1?"],
    "what changed": ["audit", "--against", "previous"],
    "who saw a row": ["audit", "--row", "alpaca/support.jsonl:2"],
}
"""Only the last one has to look through every run that ever was."""
REST = ("teacher_answers", "distilled", "experiment", "memory_estimate", "prompt_baseline", "recommendation")
OTHER_FORMATS = ("text", "preferences", "unlabelled")
LOADED = """
import sys
from ft_pipeline.cli import app
app(sys.argv[1:], standalone_mode=False)
print("loaded:", sorted({"dagster", "torch"} & set(sys.modules)), file=sys.stderr)
"""


def fill(root: Path, runs: int) -> None:
    """A project after `runs` runs, each with a new row, another learning rate and a new champion."""
    shop = Shop(root)
    shop.write_project()
    rows = [{"instruction": "Do you sell mugs?", "output": "We do, in six colours."}]
    for number in range(runs):
        question = f"May I return the {number} mugs of order {number * 7919}?"
        rows.append({"instruction": question, "output": f"Yes, all {number} of them within 30 days."})
        shop.write("alpaca", "new.jsonl", rows)
        made = shop.materialize(learning_rate=1e-3 * (1 + number))
        content = {"run.txt": str(number).encode()}
        for name in OTHER_FORMATS:
            raw = shop.put(f"raw_{name}", None, {}, {"files": [], "run": number}, content)
            shop.put(name, None, {"raw": raw}, {}, content)
        for name in REST:
            shop.put(name, None, {"conversations": made["conversations"]}, {}, content)
        shop.put("quarantine", None, {"alpaca": made["alpaca"]}, {}, content)
        shop.release(made)
        shop.put("model_card", None, {"comparison": made["comparison"]}, {}, content)


def timed(root: Path, command: list[str], times: int) -> dict[str, float]:
    """Median and longest wall time in seconds of `ft …` in processes of their own."""
    environment = {**os.environ, "FT_PROJECT": str(root)}
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(
            [str(Path(sys.executable).parent / "ft"), *command], env=environment, stdout=subprocess.DEVNULL, check=True
        )
        taken.append(time.perf_counter() - began)
    return {"median": round(statistics.median(taken), 2), "longest": round(max(taken), 2)}


def loaded(root: Path) -> str:
    """Which of Dagster and torch `ft audit` had to load."""
    environment = {**os.environ, "FT_PROJECT": str(root)}
    command = [sys.executable, "-c", LOADED, "audit", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stderr.strip().removeprefix("loaded: ")


def measure(root: Path, times: int) -> dict[str, Any]:
    """The figures of a project."""
    store = root / "data" / "store"
    manifests = list((store / "artifacts").glob("*/*/*/manifest.json"))
    seconds = {}
    for name, command in COMMANDS.items():
        seconds[name] = timed(root, command, times)
        print(f"{name}: ft {' '.join(command)}: {seconds[name]}", flush=True)
    return {
        "runs": len(list((store / "champion").glob("*.json"))),
        "artifacts": len(manifests),
        "manifest_bytes": sum(path.stat().st_size for path in manifests),
        "machine": machine.describe(),
        "dagster_database": (root / "dagster_home" / "history").exists(),
        "modules_of_dagster_and_torch": loaded(root),
        "limit_seconds": LIMIT_SECONDS,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--project", type=Path, help="keep the project here; one that is there is used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.project or Path(folder) / "shop"
        if not root.exists():
            fill(root, arguments.runs)
        found = measure(root, arguments.times)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if max(found["seconds"][name]["median"] for name in ("the tree", "as JSON")) > LIMIT_SECONDS:
        sys.exit("ft audit took longer than its limit")


if __name__ == "__main__":
    main()
