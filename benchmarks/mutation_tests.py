"""Run tests on mutants: the part of mutations.py that runs in a copy of the repository, where it may change files.

Pytest collects the tests once. Whatever runs them is a fork of this process, so that each begins with all modules
loaded and without what earlier ones left behind.
"""

import ast
import contextlib
import gc
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import hypothesis
import pytest

import ft_pipeline
from benchmarks.mutation_sample import Mutant
from benchmarks.mutations import (
    FOLDERS,
    KILLED,
    LOG,
    NOT_REACHED,
    OTHER_SUBJECTS,
    SURVIVED,
    TESTS,
    USUAL,
)

LEAST_SECONDS, TIMES = 10, 10
"""With a mutant, a test may take this many CPU seconds, and as many times those that it takes without. Waiting may take
ten times as long. A mutant with which it takes longer is found: it never ends."""
CHEAP = 1.0
MOST_SECONDS = 120
"""A mutant meets tests that take so many CPU seconds in all without it."""
_FAILED = 10


class Seen(NamedTuple):
    """A test, as it is without a mutant."""

    mutants: Sequence[int]
    """Those that it reaches."""
    seconds: float
    """CPU seconds, without those of fixtures that it shares with others."""
    of_fixtures: float


class MutationTests:
    """A plugin of pytest that runs tests on mutants in place of the usual order."""

    def __init__(self, folder: Path, mutants: Sequence[Mutant]) -> None:
        self.folder, self.mutants = folder, mutants
        self.log = folder / LOG
        self.failed = False
        self.fixtures: dict[Any, tuple[set[int], float]] = {}
        """Of each fixture that several tests share: the mutants that its set-up reached, and its CPU seconds."""
        self.in_fixtures = 0.0

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run everything, and write result.json."""
        self.functions = defaultdict(list)
        """The functions of each file that a module of this process has loaded."""
        gc.unfreeze()  # what conftest froze is not among the objects
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType):
                self.functions[thing.__code__.co_filename].append(thing)
        gc.freeze()
        seen = self._observe(session.items)
        outcomes = []
        for number, mutant in enumerate(self.mutants):
            places = [Path(TESTS, name).resolve() for name in FOLDERS[mutant.area]]
            suiting = [item for item in session.items if any(item.path.is_relative_to(place) for place in places)]
            reaching = [item for item in suiting if item.nodeid in seen and number in seen[item.nodeid].mutants]
            began = _cpu_seconds()
            ordered = _cheap_first(reaching, seen, Path(mutant.module).stem)
            outcomes.append(self._outcome(mutant, ordered, seen) if ordered else NOT_REACHED)
            told = f"{number + 1}/{len(self.mutants)} {outcomes[-1]}, {len(reaching)} tests reach it"
            print(f"{told}, {_cpu_seconds() - began:.0f} s: {mutant}", file=sys.stderr, flush=True)
        failing = [item.nodeid for item in session.items if item.nodeid not in seen]
        result = {"tests": len(session.items), "tests_that_fail_without_a_mutant": failing, "outcomes": outcomes}
        (self.folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        return True

    def _observe(self, items: Sequence[pytest.Item]) -> dict[str, Seen]:
        """Run all tests without a mutant. Return what was seen of each that does not fail."""
        lines: dict[Path, dict[int, int]] = defaultdict(dict)
        for number, mutant in enumerate(self.mutants):
            lines[Path(mutant.module).resolve()][number] = mutant.line
        sources = {path: path.read_text(encoding="utf-8") for path in lines}
        probed = {path: with_probes(source, lines[path]) for path, source in sources.items()}
        self.log.touch()

        def run() -> int:
            seen = {}
            for path, source in probed.items():
                self._replace(path, sources[path], source)
            for item, following in zip(items, [*items[1:], None], strict=True):
                self.failed, self.in_fixtures = False, 0.0
                began, at = _cpu_seconds(), self._mark()
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if not self.failed:
                    seen[item.nodeid] = self._with_fixtures(item, self._since(at), _cpu_seconds() - began)
            (self.folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")
            return 0

        for path, source in probed.items():
            path.write_text(source, encoding="utf-8")
        self._fork(run)
        for path, source in sources.items():
            path.write_text(source, encoding="utf-8")
        seen = json.loads((self.folder / "seen.json").read_text(encoding="utf-8"))
        return {name: Seen(*entry) for name, entry in seen.items()}

    def _with_fixtures(self, item: pytest.Item, reached: set[int], seconds: float) -> Seen:
        """Return what a test reaches, and costs, with the shared fixtures that others may have set up for it."""
        by_name: Mapping[str, Sequence[Any]] = vars(item)["_fixtureinfo"].name2fixturedefs
        shared = [self.fixtures[one] for of_name in by_name.values() for one in of_name if one in self.fixtures]
        numbers = reached.union(*(of_fixture for of_fixture, _ in shared))
        return Seen(sorted(numbers), seconds - self.in_fixtures, sum(cpu for _, cpu in shared))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """Note what the set-up of a shared fixture reaches: tests that use it later do not reach it again."""
        if fixturedef.scope == "function":
            return (yield)
        began, at = _cpu_seconds(), self._mark()
        try:
            return (yield)
        finally:
            seconds, reached = _cpu_seconds() - began, self._since(at)
            self._mark()
            self.in_fixtures += seconds
            self.fixtures[fixturedef] = (reached | self.fixtures.get(fixturedef, (set(), 0))[0], seconds)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    def _mark(self) -> int:
        """Return the present end of the log. From now on, this process writes each number once more."""
        vars(ft_pipeline)["_reached"].clear()
        return self.log.stat().st_size

    def _since(self, begin: int) -> set[int]:
        with self.log.open("rb") as log:
            log.seek(begin)
            return {int(line) for line in log}

    def _outcome(self, mutant: Mutant, items: Sequence[pytest.Item], seen: Mapping[str, Seen]) -> str:
        """Return whether a test fails with a mutant."""
        path = Path(mutant.module).resolve()
        source = path.read_text(encoding="utf-8")
        changed = mutant.changed(source)

        def run() -> int:
            self._replace(path, source, changed)
            for item, following in zip(items, [*items[1:], None], strict=True):
                _limit(LEAST_SECONDS + TIMES * sum(seen[item.nodeid][1:]))
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self.failed:
                    return _FAILED
            return 0

        path.write_text(changed, encoding="utf-8")
        try:
            status = self._fork(run)
        finally:
            path.write_text(source, encoding="utf-8")
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, _FAILED):
            raise RuntimeError(
                f"The tests of a mutant could not run: {mutant}\n{(self.folder / 'output.txt').read_text()}"
            )
        return KILLED if status else SURVIVED

    def _replace(self, path: Path, source: str, changed: str) -> None:
        """Give the functions of a module that is loaded the code of its changed source."""
        pairs = zip(_codes(compile(source, path, "exec")), _codes(compile(changed, path, "exec")), strict=True)
        new = {(old.co_qualname, old.co_firstlineno): code for old, code in pairs}
        for function in self.functions[str(path)]:
            code = function.__code__
            function.__code__ = new[code.co_qualname, code.co_firstlineno]

    def _fork(self, run: Callable[[], int]) -> int:
        """Run a function in a fork of this process. Return the status that the process ends with."""
        scratch = self.folder / "scratch"
        scratch.mkdir()
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(scratch)
            with (self.folder / "output.txt").open("w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            status = 1
            try:
                status = run()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        try:
            os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            shutil.rmtree(scratch, ignore_errors=True)
        return status


def with_probes(source: str, lines: Mapping[int, int]) -> str:
    """Return the source with a call before each statement that has a mutant. lines: by mutant, counted from 0."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    result = source.splitlines(keepends=True)

    def begin(line: int) -> int:
        around = [node.lineno - 1 for node in statements if node.lineno - 1 <= line < (node.end_lineno or 0)]
        return max(at for at in around if not result[at].lstrip().startswith("elif "))

    begins = {number: begin(line) for number, line in lines.items()}
    for number, at in sorted(begins.items(), key=lambda pair: -pair[1]):
        indent = result[at][: len(result[at]) - len(result[at].lstrip())]
        result.insert(at, f'{indent}__import__("ft_pipeline").reached({number})\n')
    return "".join(result)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a module and of all functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _cheap_first(items: Sequence[pytest.Item], seen: Mapping[str, Seen], module: str) -> list[pytest.Item]:
    """Return the tests of up to CHEAP seconds and then the others, as long as the sum is below MOST_SECONDS."""
    costs = {item: seen[item.nodeid].seconds + seen[item.nodeid].of_fixtures for item in items}
    ordered = [
        *_likely_files_first([item for item in items if costs[item] <= CHEAP], seen, module),
        *_likely_files_first([item for item in items if costs[item] > CHEAP], seen, module),
    ]
    before = accumulate((seen[item.nodeid].seconds for item in ordered), initial=0.0)
    return [item for item, seconds in zip(ordered, before, strict=False) if seconds < MOST_SECONDS]


def _likely_files_first(items: Sequence[pytest.Item], seen: Mapping[str, Seen], module: str) -> list[pytest.Item]:
    """Return tests file by file, because those of a file share fixtures and may need their order: files named like the
    module of the mutant first, then those that cost least."""
    own: dict[Path, float] = defaultdict(float)
    shared: dict[Path, float] = defaultdict(float)
    for item in items:
        own[item.path] += seen[item.nodeid].seconds
        shared[item.path] = max(shared[item.path], seen[item.nodeid].of_fixtures)
    rank = sorted(own, key=lambda path: (module not in path.stem, own[path] + shared[path]))
    return sorted(items, key=lambda item: rank.index(item.path))


def _limit(seconds: float) -> None:
    """Kill this process once it has used so many more CPU seconds, or has waited ten times as long."""
    used = sum(os.times()[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def main() -> None:
    folder, *tests = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    task = json.loads((Path(folder) / "task.json").read_text(encoding="utf-8"))
    plugin = MutationTests(Path(folder), [Mutant(**mutant) for mutant in task])
    # The same examples in each run, however slow the machine is.
    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("mutants")
    ignored = [f"--ignore-glob={pattern}" for pattern in OTHER_SUBJECTS]
    sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", "-m", USUAL, *ignored, *tests], plugins=[plugin]))


if __name__ == "__main__":
    main()
