"""The working folder of the reproductions: each finished run is one line of a file, written at once, so that a killed
process is continued by the next one."""

import json
import os
from pathlib import Path
from typing import Any

RUNS = "runs.jsonl"
SETUP = "setup.json"
_MUST_AGREE = ("rows", "tokens", "shared_settings")
_MUST_AGREE_OF_MACHINE = ("cpu", "compute_dtype", "torch", "emulated_by")


class Ledger:
    """The finished runs of one working folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RUNS
        self._setup = folder / SETUP
        self.runs: dict[str, dict[str, Any]] = {}
        if not self._path.is_file():
            return
        whole, _, torn = self._path.read_bytes().rpartition(b"\n")
        if torn:  # killed while it wrote: the run is done again
            with self._path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
        for line in whole.splitlines():
            run = json.loads(line)
            self.runs[run["key"]] = run

    def agree(self, setup: dict[str, Any]) -> None:
        """Keep what the runs share. SystemExit where earlier runs of the folder had something else."""
        if self.runs:
            earlier = json.loads(self._setup.read_text(encoding="utf-8"))
            for name, before, now in _pairs(earlier, setup):
                if before != now:
                    raise SystemExit(
                        f"{self._path.parent} has runs with {name} {before!r}, not {now!r}. Name another folder with "
                        "--work, or remove this one."
                    )
        partial = self._setup.with_suffix(".part")
        partial.write_text(json.dumps(setup, indent=2) + "\n", encoding="utf-8")
        partial.replace(self._setup)

    def setup(self) -> dict[str, Any]:
        """What `agree` kept. SystemExit where there is nothing."""
        if not self._setup.is_file():
            raise SystemExit(f"{self._setup.parent} has no runs. Run without --report-only first.")
        setup: dict[str, Any] = json.loads(self._setup.read_text(encoding="utf-8"))
        return setup

    def add(self, run: dict[str, Any]) -> None:
        """Write a finished run to the disk before anything else happens."""
        self.runs[run["key"]] = run
        with self._path.open("ab") as file:
            file.write(json.dumps(run).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _pairs(earlier: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    whole = [(name, earlier.get(name), now.get(name)) for name in _MUST_AGREE]
    machines = earlier.get("machine", {}), now.get("machine", {})
    return whole + [(name, machines[0].get(name), machines[1].get(name)) for name in _MUST_AGREE_OF_MACHINE]
