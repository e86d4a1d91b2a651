"""Run the parts that have no result yet, one after the other, within the minutes of one call."""

import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_parts.bench import Bench, Failed, Findings, OutOfTime, Skipped

PART_MINUTES = 8.0
"""No part takes longer."""
TRIAL_MINUTES = 60.0
"""The same for a trial on tiny models, which is about the program: the machine may be slow and busy."""
_SETUP = "setup.json"


@dataclass(frozen=True)
class Part:
    """One part of the acceptance."""

    name: str
    question: str
    """What it answers, in one line."""
    minutes: float
    """How long it takes on a large GPU, about."""
    measure: Callable[[Bench], Findings]
    needs: str | None = "models"
    """A part that must have passed before."""


class Results:
    """The results in one folder: a JSON file for each part, which appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def agree(self, setup: dict[str, Any]) -> None:
        """Keep what all results share. SystemExit if earlier ones have something else."""
        path = self.folder / _SETUP
        if path.is_file():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            if earlier != setup:
                raise SystemExit(
                    f"{self.folder} has results of {earlier}, not {setup}. Name another folder with --out."
                )
        else:
            write_whole(path, setup)

    def setup(self) -> dict[str, Any]:
        """What `agree` kept. SystemExit if there is nothing."""
        path = self.folder / _SETUP
        if not path.is_file():
            raise SystemExit(f"{self.folder} has no results. Use `run` first, or name another folder with --out.")
        return json.loads(path.read_text(encoding="utf-8"))

    def of(self, name: str) -> dict[str, Any] | None:
        """The result of a part, if it has one."""
        path = self._path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def keep(self, name: str, result: dict[str, Any]) -> None:
        write_whole(self._path(name), result)

    def forget(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.json"


def write_whole(path: Path, document: Any) -> None:
    """Write JSON so that the file is never half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@dataclass(frozen=True)
class Runner:
    """Runs parts of one folder on one device."""

    results: Results
    parts: Sequence[Part]
    device: str
    scale: str

    def run(self, names: Sequence[str], minutes: float) -> None:
        """Run the named parts that have no result, in the order of the parts. At least one is tried.

        A part begins if the time that is left is what it takes, about. One that is not done at the end of the call has
        no result, and is tried again by the next call, unless it had all the minutes of a part.
        """
        end = time.monotonic() + 60 * minutes
        waiting = [part for part in self.parts if part.name in names and self.results.of(part.name) is None]
        for number, part in enumerate(waiting):
            if part.needs and (self.results.of(part.needs) or {}).get("status") != "passed":
                print(f"{part.name} needs `{part.needs}`, which has not passed. Use `run --again {part.needs}`.")
                continue
            left = (end - time.monotonic()) / 60
            if number and left < part.minutes:
                print(f"{left:.1f} min left of {minutes:g}, too few for {part.name} (about {part.minutes:g} min).")
                break
            print(
                f"[{self._done() + 1}/{len(self.parts)}] {part.name}: {part.question} About {part.minutes:g} min.",
                flush=True,
            )
            self._run_part(part, min(end, time.monotonic() + 60 * self._part_minutes))
        missing = [part.name for part in self.parts if self.results.of(part.name) is None]
        print(
            f"Not run yet: {', '.join(missing)}. Run the same command again." if missing else "All parts have a result."
        )

    @property
    def _part_minutes(self) -> float:
        return PART_MINUTES if self.scale == "full" else TRIAL_MINUTES

    def _done(self) -> int:
        return sum(self.results.of(part.name) is not None for part in self.parts)

    def _run_part(self, part: Part, end: float) -> None:
        started = time.monotonic()
        shutil.rmtree(self.results.folder / "work" / part.name, ignore_errors=True)  # of an earlier try
        whole = end - started >= 60 * self._part_minutes - 1
        try:
            result = self._measure(part, end, whole)
        except OutOfTime:
            minutes = (time.monotonic() - started) / 60
            if not whole:
                print(f"  stopped after {minutes:.1f} min, at the end of this call; the next call runs it again")
                return
            result = {
                "status": "error",
                "error": f"not done after {minutes:.1f} min; `--again {part.name}` tries it again",
            }
        result = {
            **result,
            "part": part.name,
            "seconds": round(time.monotonic() - started, 1),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.results.keep(part.name, result)
        print(f"  {_describe(result)} ({result['seconds']:.0f} s)", flush=True)

    def _measure(self, part: Part, end: float, whole: bool) -> dict[str, Any]:
        """The result of a part; an error is a result, too."""
        try:
            findings = part.measure(Bench(self.results.folder, part.name, self.device, self.scale, end, whole))
        except Skipped as reason:
            return {"status": "skipped", "error": str(reason)}
        except Failed as error:
            return {"status": "error", "error": str(error)}
        except OutOfTime:
            raise
        except Exception as error:
            traceback.print_exc()
            return {"status": "error", "error": f"{type(error).__name__}: {error}"}
        return {
            "status": findings.status,
            "checks": findings.checks,
            "tables": findings.tables,
            "skipped": findings.skipped,
        }


def _describe(result: dict[str, Any]) -> str:
    """One line, and one for each check that failed."""
    lines = [result["status"] + (f": {result['error']}" if result.get("error") else "")]
    checks = result.get("checks", [])
    if checks:
        lines[0] += f", {sum(check['passed'] for check in checks)} of {len(checks)} checks passed"
    lines += [f"    FAILED {describe_check(check)}" for check in checks if not check["passed"]]
    lines += [f"    skipped {name}: {reason}" for name, reason in result.get("skipped", {}).items()]
    return "\n".join(lines)


def describe_check(check: dict[str, Any]) -> str:
    """`lora sft in float32, first loss: 2.1e-06 (at most 0.0001)`."""
    if "error" in check:
        return f"{check['name']}: {check['error']}"
    bound = "at least" if check["at_least"] else "at most"
    return f"{check['name']}: {check['value']:.3g} ({bound} {check['limit']:g})"
