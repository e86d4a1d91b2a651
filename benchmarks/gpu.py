"""The acceptance of this project on a CUDA machine, in parts of at most 8 minutes that go on where they stopped.

    python -m benchmarks.gpu list                              # the parts, their minutes, and what has a result
    python -m benchmarks.gpu run [--minutes 8]                 # the next parts that have no result yet
    python -m benchmarks.gpu run --part forward merge          # these
    python -m benchmarks.gpu run --again speed-lora            # these once more
    python -m benchmarks.gpu report                            # REPORT.md and pictures
    python -m benchmarks.gpu run --device cpu --scale tiny     # a trial of this program on a CPU, in minutes

It needs this repository and packages, and no other network: the models are made here from configs and a seed. Each
measurement runs in a process of its own. Losses on the GPU are held against those of the CPU of the same machine. A
part that fails is recorded with its error, and the next one runs. Results, logs and models: build/gpu (--out).
benchmarks/README.md says how to use it on a rented GPU.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the benchmarks are scripts, not a package

from gpu_parts import report, tasks
from gpu_parts.bench import ROOT, visible_gpus
from gpu_parts.registry import all_parts
from gpu_parts.runner import PART_MINUTES, Results, Runner

OUT = ROOT / "build" / "gpu"


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    if given.command == "task":
        tasks.main(given.name, given.items, given.results)
        return
    results = Results(given.out.resolve())
    if given.command == "list":
        _list(results)
    elif given.command == "report":
        print(report.write(results, all_parts()))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that measurements are ended, too
        _run(results, given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the parts that have no result yet")
    run.add_argument("--part", nargs="+", default=[], metavar="NAME", help="only these")
    run.add_argument("--again", nargs="+", default=[], metavar="NAME", help="these, even if they have a result")
    run.add_argument("--minutes", type=float, default=PART_MINUTES, help="stop in time (default: %(default)g)")
    run.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    run.add_argument("--scale", choices=["full", "tiny"], default="full", help="tiny: a trial of this program")
    listed = commands.add_parser("list", help="list the parts")
    written = commands.add_parser("report", help="write REPORT.md")
    for command in (run, listed, written):
        command.add_argument("--out", type=Path, default=OUT, help="the folder of the results")
    task = commands.add_parser("task")
    task.add_argument("name", choices=sorted(tasks.TASKS))
    task.add_argument("items", type=Path)
    task.add_argument("results", type=Path)
    return parser


def _run(results: Results, given: Any) -> None:
    parts = all_parts()
    names = [part.name for part in parts]
    for name in (*given.part, *given.again):
        if name not in names:
            raise SystemExit(f"There is no part {name!r}. Choose from {', '.join(names)}.")
    results.agree({"device": _device(given.device), "scale": given.scale})
    for name in given.again:
        results.forget(name)
    wanted = [*given.part, *given.again] or names
    Runner(results, parts, _device(given.device), given.scale).run(wanted, given.minutes)
    print(f"Results: {results.folder}. Write the report with `python -m benchmarks.gpu report`.")


def _device(device: str) -> str:
    """`cuda` or `cpu`. SystemExit if there is no GPU and none was said not to be wanted."""
    if device == "cpu":
        return "cpu"
    if not visible_gpus():
        raise SystemExit("nvidia-smi shows no GPU here. Use --device cpu --scale tiny for a trial of this program.")
    return "cuda"


def _list(results: Results) -> None:
    for part in all_parts():
        result = results.of(part.name)
        print(f"{part.name:16} {part.minutes:4g} min  {result['status'] if result else '-':8} {part.question}")


if __name__ == "__main__":
    main()
