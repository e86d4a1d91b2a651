"""How long a worker with a model needs before its work begins: as a fork, and with an interpreter of its own.

    python -m benchmarks.worker_start [--times 5]

The job imports what the scoring of a tuned model imports, and ends. The first fork waits for the server, which imports
the libraries once; the others are what each further worker of a run needs. The ratio is of one run, with one after the
other by turns. Results go to benchmarks/results/worker_start.json.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from ft_pipeline.execution.workers.launchers import LocalLauncher

RESULTS = Path(__file__).parent / "results" / "worker_start.json"
ENTRY = "benchmarks.worker_start"
IMPORTED = "ft_pipeline.evaluation.scoring.tuned_scores"
JOB = "job.json"


def seconds(launcher: LocalLauncher, folder: Path) -> float:
    """Return the wall seconds from the start of a worker to its end."""
    lifeline, own_end = os.pipe()
    started = time.perf_counter()
    with (folder / "worker.log").open("wb") as log:
        code = launcher.start(folder / JOB, env={}, lifeline=lifeline, log=log).wait()
    taken = time.perf_counter() - started
    os.close(lifeline)
    os.close(own_end)
    if code:
        raise SystemExit((folder / "worker.log").read_text(encoding="utf-8"))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / JOB).write_text('{"device": "cpu"}', encoding="utf-8")
        first = seconds(LocalLauncher(ENTRY, forks=True), folder)
        forked, alone = [], []
        for _ in range(times):
            forked.append(seconds(LocalLauncher(ENTRY, forks=True), folder))
            alone.append(seconds(LocalLauncher(ENTRY), folder))
    found = {
        "machine": machine.describe(),
        "times": times,
        "first_fork_seconds": round(first, 2),
        "fork_seconds": round(statistics.median(forked), 3),
        "alone_seconds": round(statistics.median(alone), 2),
        "ratio": round(statistics.median(alone) / statistics.median(forked), 1),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:] and Path(sys.argv[1]).name == JOB:
        importlib.import_module(IMPORTED)
    else:
        main()
