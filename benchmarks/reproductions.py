"""Small forms of published results, by the project's own trainer; each has a conclusion that follows from an interval.

    python benchmarks/reproductions.py [--study 1|2|3 ...] [--rows 150] [--held-out 100] [--seeds 2]
                                       [--jobs 2] [--work FOLDER] [--out FILE] [--report-only]

1. LoRA Without Regret (Schulman and Thinking Machines Lab 2025): LoRA on every matrix (r = 32) against LoRA on
   attention with as many parameters (r = 85), and against all weights, each at its best of five learning rates.
2. The same source: the best learning rate of all weights, LoRA r = 8 and LoRA r = 32, at constant lora_alpha.
3. QLoRA (Dettmers et al. 2023): NF4 against FP4, with and without double quantization: loss after training, and
   KL(base || 4-bit base).

SmolLM2-135M on the shipped support rows. Each training is a separate process; its result is one line of a file in the
working folder. Run the command again after any interruption, `kill -9` included: it continues with what is missing.
The first seed trains at every learning rate; the others repeat the three around the lowest loss. Two processes of one
thread each use two cores better than one of two threads: --jobs says how many run at a time.
Results: benchmarks/results/reproductions.json, and docs/images/learning_rates.png. Other numbers of rows or seeds are
a trial: its report stays in the working folder.
"""

import argparse
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from embedded import ROOT
from reproducing.ledger import Ledger
from reproducing.runner import Runner
from reproducing.trainings import ALPHA, R32, R85, SHARED, lora_parameters

RESULTS = ROOT / "benchmarks" / "results" / "reproductions.json"
PICTURE = ROOT / "docs" / "images" / "learning_rates.png"
WORK = ROOT / "build" / "reproductions"
ROWS, HELD_OUT, SEEDS = 150, 100, 2
FIRST_SEED = 42
_NEARLY_EQUAL = 0.01
"""By how much the parameters of the two adapters of study 1 may differ."""


def main() -> None:
    given = _arguments()
    if given.worker:
        _work(json.loads(given.worker))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(given.work)
    if not given.report_only:
        runner = Runner(
            Path(__file__), given.work, ledger, studies=given.study, seeds=given.seed_numbers, jobs=given.jobs
        )
        setup = runner.prepare(given.rows, given.held_out)
        ledger.agree({**setup, "shared_settings": {**SHARED, "lora_alpha": ALPHA}})
        _print_parameters(setup)
        runner.run_all(setup["rows_file"])
    _report(ledger, given)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=int, nargs="*", choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to train on")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="rows for the losses")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time; they share the cores")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder for finished runs")
    parser.add_argument("--out", type=Path, help="the file for the results")
    parser.add_argument("--report-only", action="store_true", help="report finished runs and train nothing")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    published = (given.rows, given.held_out, given.seeds, sorted(given.study)) == (ROWS, HELD_OUT, SEEDS, [1, 2, 3])
    given.work = given.work.resolve()
    given.out = given.out or (RESULTS if published else given.work / "reproductions.json")
    given.seed_numbers = list(range(FIRST_SEED, FIRST_SEED + given.seeds))
    return given


def _print_parameters(setup: dict[str, Any]) -> None:
    """The adapters of study 1. SystemExit where they are not nearly equal."""
    every, attention = (lora_parameters(arm, setup["config"]) for arm in (R32, R85))
    print(f"{R32.name} on every matrix: {every:,} parameters; {R85.name}: {attention:,} ({attention / every - 1:+.2%})")
    if abs(attention / every - 1) > _NEARLY_EQUAL:
        raise SystemExit("The two adapters of study 1 differ in size on this model. Change the rank of R85.")


def _work(task: dict[str, Any]) -> None:
    """The process of one task: the result is its last line. It ends when its standard input does: with its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from reproducing import worker

    print(json.dumps(worker.run(task)))


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _report(ledger: Ledger, given: argparse.Namespace) -> None:
    from reproducing.report import document, lines, picture

    report = document(ledger.runs, ledger.setup(), given.seed_numbers)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if drawn := picture(ledger.runs, given.seed_numbers):
        (PICTURE if given.out == RESULTS else given.out.with_suffix(".png")).write_bytes(drawn)
    print(lines(report))


if __name__ == "__main__":
    main()
