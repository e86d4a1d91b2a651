"""Measure rates in many invented worlds of each line, print them, and write them down."""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks import machine


class Line(Protocol):
    """A truth, of which worlds are drawn."""

    @property
    def name(self) -> str: ...


L = TypeVar("L", bound=Line)


def run(description: str | None, results: Path, lines: Iterable[L], measure: Callable[[L, int, int], Any]) -> None:
    """Read the command line, measure the lines, print each, and write it to `results`. Lines that are not asked for
    keep their results of as many worlds.

    description: of the command. measure: returns the rates of a line, from a number of worlds and a seed.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    by_name = {line.name: line for line in lines}
    parser.add_argument("--lines", nargs="*", choices=by_name, default=list(by_name))
    options = parser.parse_args()
    document = {"machine": machine.describe(), "worlds": options.worlds, "seed": options.seed}
    before = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    rates = before["lines"] if before.items() >= document.items() else {}
    for name in options.lines:
        rates[name] = measure(by_name[name], options.worlds, options.seed)
        print(f"{name}: {json.dumps(rates[name])}", flush=True)
        whole = {**document, "lines": {name: rates[name] for name in by_name if name in rates}}
        results.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
