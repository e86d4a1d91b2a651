"""The line of jobs that wait for a device: the first that came gets it, in all processes and projects of this user.

A waiting job has a file in the folder of each device that it can use, and locks it. The kernel releases the lock when
the job's process ends, for any reason. Therefore a killed job leaves the line by itself.
"""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.store.locks import FileLock

LINES = "waiting"
"""Folder of the lines, in the folder of the devices' locks."""


@dataclass(frozen=True)
class DeviceUse:
    """Who uses a device, and who waits for it."""

    device: str
    """`cpu`, or the UUID of a GPU."""
    holder: str | None
    """The job that uses it, and its process; None if it is free."""
    waiting: tuple[str, ...]
    """The jobs that wait for it, in their order."""


class PlaceInLine:
    """The place of one job in the lines of the devices that it can use.

    A job that leaves and returns has the same place again.
    """

    def __init__(self, folder: Path, job: str) -> None:
        """folder: that of the devices' locks. job: what waits, for `ft status`."""
        self._folder = folder
        self._job = job
        self._name = f"{time.time_ns():020d}-{os.getpid()}-{threading.get_ident()}"
        self._locks: dict[str, FileLock] = {}

    def enter(self, devices: Iterable[str]) -> None:
        """Stand in the lines of these devices, and of no others."""
        wanted = set(devices)
        for device in self._locks.keys() - wanted:
            self._leave(device)
        for device in wanted - self._locks.keys():
            line = self._folder / LINES / device
            lock = FileLock(line / f".{self._name}", self._job)
            if lock.try_acquire():
                lock.path.rename(line / self._name)  # the others see it only when it is locked
                self._locks[device] = lock

    def leave(self) -> None:
        """Leave all lines. Does nothing for a job that stands in none."""
        self.enter(())

    def ahead(self, device: str) -> int:
        """Return how many jobs are ahead in the line of a device. Removes the files of killed jobs."""
        line = self._folder / LINES / device
        earlier = [name for name in _names(line) if name < self._name]
        for name in list(earlier):
            if not is_held(line / name):
                (line / name).unlink(missing_ok=True)
                earlier.remove(name)
        return len(earlier)

    def _leave(self, device: str) -> None:
        (self._folder / LINES / device / self._name).unlink(missing_ok=True)
        self._locks.pop(device).release()


def device_uses(folder: Path) -> list[DeviceUse]:
    """Return the devices in a folder of locks that a job uses or waits for. Changes nothing."""
    lines = folder / LINES
    devices = {path.name for path in _paths(folder) if path.is_file()} | {path.name for path in _paths(lines)}
    uses = []
    for device in sorted(devices):
        waiting = [_job(lines / device / name) for name in _names(lines / device) if is_held(lines / device / name)]
        holder = _job(folder / device) if is_held(folder / device) else None
        if holder or waiting:
            uses.append(DeviceUse(device, holder, tuple(waiting)))
    return uses


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of a file. Does not create the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _job(path: Path) -> str:
    """The job that holds a lock, as its note describes it."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return f"{note['purpose']} (process {note['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another job"


def _names(line: Path) -> list[str]:
    return sorted(path.name for path in _paths(line) if not path.name.startswith("."))


def _paths(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
