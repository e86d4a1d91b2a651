"""Builds a table on a Ray cluster: Ray Data reads the files, and tasks find the duplicates, shard by shard.

The deployment switches it on (FT_RAY_TABLES). The table is the same bytes, so that no spec mentions it. This machine is
a node of the cluster. All nodes have this package in the same version, and the store under the same path. Ray sends
Python objects between its own processes as pickles; no raw file is unpickled.
"""

import itertools
import logging
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.tables.cache_key import code_hash
from ft_pipeline.tables.dedup.sharding import Shards
from ft_pipeline.tables.file_task import FileResults, FileTask
from ft_pipeline.tables.reading.batches import BLOCK_BYTES
from ft_pipeline.tables.reason_codes import Refused

RAY_TABLES = "FT_RAY_TABLES"
"""Environment variable: HOST:PORT of the head of a Ray cluster. If it is not set, tables are built on this machine."""
SHARDS_PER_CPU = 4
_ADDRESS = re.compile(r"([^\s:/]+):(\d{1,5})")
_ANSWER_SECONDS = 10
_PACKAGE = Path(__file__).parent
_PROCESSING_CPUS, _READING_CPUS = 1.0, 0.0
"""Reading mostly waits for the disk. The numbers differ so that Ray Data does not join the two steps: then the batches
of one file are processed on several nodes."""


@dataclass(frozen=True)
class RayTables:
    """A cluster that this process is connected to."""

    address: str
    cpus: int
    code: str
    """The hash of the code on this machine."""

    @property
    def shards(self) -> Shards:
        return Shards(SHARDS_PER_CPU * self.cpus, self.map)

    def map_files(self, tasks: Iterable[FileTask], excluded: Collection[str]) -> Iterator[FileResults]:
        """Read files, see file_task.map_files. Their batches are processed on all nodes."""
        import ray.data

        items = [{"file": number, "task": task} for number, task in enumerate(tasks)]
        if not items:
            return
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns of what is intended here
        settings = ray.data.DataContext.get_current()
        settings.execution_options.preserve_order = True
        settings.target_max_block_size = BLOCK_BYTES  # a batch or two: a node gets work before the whole file is read
        settings.enable_fallback_to_arrow_object_ext_type = True  # rows hold batches and their results
        settings.enable_progress_bars = settings.print_on_execution_start = False
        readers = ray.data.TaskPoolStrategy(size=min(self.cpus, len(items)))
        rows = (
            ray.data.from_items(items)
            .flat_map(partial(_read, code=self.code), num_cpus=_READING_CPUS, compute=readers)
            .map(partial(_process, excluded=excluded), num_cpus=_PROCESSING_CPUS)
            .iter_rows()
        )
        for _, rows_of_file in itertools.groupby(self._explained(rows), key=lambda row: row["file"]):
            yield _results(rows_of_file)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield function(item) in order, computed on all nodes. Only a few items are in progress at a time."""
        return self._explained(self._map(function, items))

    def _map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        import ray

        task, shared = ray.remote(scheduling_strategy="SPREAD")(_call), ray.put(function)
        under_way: deque[Any] = deque()
        for item in items:
            under_way.append(task.remote(shared, item, self.code))
            if len(under_way) > 2 * self.cpus:
                yield ray.get(under_way.popleft())
        while under_way:
            yield ray.get(under_way.popleft())

    def _explained(self, results: Iterable[Any]) -> Iterator[Any]:
        """Yield the results. Raises UserError if the cluster fails to compute one."""
        from ray.exceptions import RayError

        try:
            yield from results
        except RayError as error:
            cause = getattr(error, "cause", None) or error.__cause__ or error
            raise UserError(
                f"The Ray cluster at {self.address} did not finish the table: {first_line(cause)}. Look at its nodes "
                f"and run again, or unset {RAY_TABLES} to build the table on this machine."
            ) from error


@contextmanager
def connect() -> Iterator[RayTables | None]:
    """Yield the cluster that the deployment names for tables; None without a name. UserError if no cluster answers."""
    address = os.environ.get(RAY_TABLES)
    if not address:
        yield None
        return
    host_and_port = _ADDRESS.fullmatch(address)
    if not host_and_port:
        raise UserError(f"{RAY_TABLES}={address!r} is not HOST:PORT. Set it to the address of `ray start --head`.")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError(f"{RAY_TABLES} needs the extra `ray`. Run: pip install 'ft-pipeline[ray]'") from None
    try:
        # Ray itself waits for minutes.
        socket.create_connection((host_and_port[1], int(host_and_port[2])), timeout=_ANSWER_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise UserError(
            f"No Ray cluster answers at {address}: {first_line(error)}. Join it with `ray start --address={address}`, "
            f"or unset {RAY_TABLES}."
        ) from error
    try:
        yield RayTables(address, max(int(ray.cluster_resources().get("CPU", 0)), 1), code_hash(_PACKAGE))
    finally:
        ray.shutdown()


def _check_code(code: str) -> None:
    if code_hash(_PACKAGE) != code:
        raise UserError(
            f"node {os.uname().nodename} has another version of ft-pipeline or its libraries. Install the same on it"
        )


def _call(function: Callable[[Any], Any], item: Any, code: str) -> Any:
    _check_code(code)
    return function(item)


def _read(row: dict[str, Any], code: str) -> Iterator[dict[str, Any]]:
    """Yield the batches of a file, then a row without a batch, which may have the reason why the file is refused."""
    _check_code(code)
    refused = None
    try:
        for batch in row["task"].batches():
            yield {**row, "batch": batch, "refused": None}
    except Refused as error:
        refused = error
    yield {**row, "batch": None, "refused": refused}


def _process(row: dict[str, Any], excluded: Collection[str]) -> dict[str, Any]:
    batch = row["batch"]
    if batch is None:
        return {"file": row["file"], "result": None, "refused": row["refused"]}
    batch_result = row["task"].process(batch, excluded)
    numbers = replace(batch, block=None, lines=None, values=[])
    return {"file": row["file"], "result": (numbers, batch_result), "refused": None}


def _results(rows: Iterator[dict[str, Any]]) -> FileResults:
    try:
        for row in rows:
            if row["refused"] is not None:
                raise row["refused"]
            if row["result"] is not None:
                yield row["result"]
    finally:
        deque(rows, maxlen=0)  # wait until the rest of the file is processed
