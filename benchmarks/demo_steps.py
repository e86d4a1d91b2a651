"""What a finished run spent its time on, and whether two versions computed the same.

    git worktree add build/before COMMIT
    ft init build/one --example-of classification && PYTHONPATH=build/before ft run --project build/one
    ft init build/two --example-of classification && ft run --project build/two
    .venv/bin/python -m benchmarks.demo_steps build/one build/two

Run both on the same idle machine. Results: benchmarks/results/demo_steps.json: the seconds of each step that took one
second or more, and how far the two differ in the likelihood of reference answers, in answers and in general questions.
"""

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks import machine

RESULTS = Path(__file__).parent / "results" / "demo_steps.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("before", type=Path, help="the folder of a finished project")
    parser.add_argument("after", type=Path, help="another one, of the same data and experiments")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = {"before": arguments.before, "after": arguments.after}
    manifests = {name: manifests_of(folder) for name, folder in runs.items()}
    seconds = {name: {step: duration(manifest) for step, (_, manifest) in of.items()} for name, of in manifests.items()}
    result = {
        "machine": machine.describe_compute(),
        "commits": {name: next(iter(of.values()))[1]["code"]["commit"] for name, of in manifests.items()},
        "seconds": {
            step: {name: round(of[step], 1) for name, of in seconds.items()}
            for step, value in sorted(seconds["before"].items(), key=lambda entry: -entry[1])
            if value >= 1
        },
        "total_seconds": {name: round(total(of), 1) for name, of in manifests.items()},
        "differences": {
            step: differences(*(manifests[name][step][0] for name in runs)) for step in ("prompt_baseline", "scores")
        },
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def manifests_of(project: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the folder and manifest of each step's only artifact."""
    found = {}
    for path in sorted((project / "data" / "store" / "artifacts").glob("*/*/*/manifest.json")):
        found[path.parts[-4]] = path.parent, json.loads(path.read_text(encoding="utf-8"))
    return found


def duration(manifest: dict[str, Any]) -> float:
    """Return the seconds from the begin of a step to its end."""
    return (_time(manifest["created"]) - _time(manifest["begun"])).total_seconds()


def total(manifests: dict[str, tuple[Path, dict[str, Any]]]) -> float:
    """Return the seconds from the begin of the first step to the end of the last."""
    begun, created = ([_time(manifest[key]) for _, manifest in manifests.values()] for key in ("begun", "created"))
    return (max(created) - min(begun)).total_seconds()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def differences(before: Path, after: Path) -> dict[str, Any]:
    """Return how far the records of two runs of a step differ."""
    pairs = paired(before / "samples.parquet", after / "samples.parquet")
    tokens = sum(one["answer_tokens"] for one, _ in pairs)
    general = paired(before / "general.parquet", after / "general.parquet")
    return {
        "items": len(pairs),
        "mean_nats_per_token": sum(other["loss_sum"] - one["loss_sum"] for one, other in pairs) / tokens,
        "answers_that_differ": sum(one["answer"] != other["answer"] for one, other in pairs),
        "questions": sum(one["kind"] == "question" for one, _ in general),
        "questions_that_differ": sum(one["correct"] != other["correct"] for one, other in general),
    }


def paired(before: Path, after: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the records of the same model and item."""
    one, other = (
        {(row["name"], row["item"]): row for row in pq.read_table(path).to_pylist()} for path in (before, after)
    )
    assert one.keys() == other.keys()
    return [(one[key], other[key]) for key in one]


if __name__ == "__main__":
    main()
