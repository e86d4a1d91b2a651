"""Processes batches in several processes, in order, if there is enough work to justify starting them.

The processes run this module instead of the caller's main script. `multiprocessing` would fork a process that has
threads (from Dagster and Arrow), which may hang, or run the caller's main script again.
"""

import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

MIN_BYTES = 48 << 20
"""Less work than this is done in the caller's process."""
MAX_WORKERS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_batches(
    work: Callable[[Item], Result], items: Iterator[Item], size: int
) -> Generator[tuple[Item, Result], None, None]:
    """Yield (item, work(item)) in order. Only a few items are in progress at a time, never all.

    `size`: total size of the items in bytes. `work` must be importable: a function of one of our modules, or a partial
    of such a function.
    """
    workers = min(os.cpu_count() or 1, MAX_WORKERS)
    if size < MIN_BYTES or workers < 2:
        for item in items:
            yield item, work(item)
        return
    with processes(work, workers) as ask, ThreadPoolExecutor(workers) as threads:
        under_way: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            under_way.append((item, threads.submit(ask, item)))
            if len(under_way) > workers + 1:
                done, future = under_way.popleft()
                yield done, future.result()
        while under_way:
            done, future = under_way.popleft()
            yield done, future.result()


@contextmanager
def processes(work: Callable[[Any], Any], count: int) -> Iterator[Callable[[Any], Any]]:
    """Yield a function that processes an item in a free one of `count` processes. They end with the context."""
    started = [_start(work) for _ in range(count)]
    free: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
    for process in started:
        free.put(process)

    def ask(item: Any) -> Any:
        process = free.get()
        try:
            _send(process.stdin, item)
            succeeded, result = pickle.load(process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, pickle.UnpicklingError):
            raise RuntimeError("a process that reads rows died. Check that enough memory is free.") from None
        finally:
            free.put(process)
        if not succeeded:
            raise result
        return result

    try:
        yield ask
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _start(work: Callable[[Any], Any]) -> subprocess.Popen:
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    _send(process.stdin, work)
    return process


def _send(stream: Any, item: Any) -> None:
    pickle.dump(item, stream, protocol=5)
    stream.flush()


def serve() -> None:
    """Main loop of a process: receive the work function, then apply it to each item until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # printed text must not mix with the answers
    work = pickle.load(sys.stdin.buffer)
    while True:
        try:
            item = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (True, work(item))
        except Exception as error:
            answer = (False, error)
        _send(answers, answer)
