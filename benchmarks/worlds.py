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
    """Read the command line, measure every line, print it, and write `results`.

    description: of the command. measure: returns the rates of a line, from a number of worlds and a seed.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rates = {}
    for line in lines:
        rates[line.name] = measure(line, options.worlds, options.seed)
        print(f"{line.name}: {json.dumps(rates[line.name])}", flush=True)
    document = {"machine": machine.describe(), "worlds": options.worlds, "seed": options.seed, "lines": rates}
    results.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
