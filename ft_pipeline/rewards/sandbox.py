"""Limits of the process that computes rewards: no network, few files, and nothing that outlives it.

A reward may run what a model wrote, so nobody has read it before. What Linux offers an unprivileged process is used:
namespaces for the network and for processes, Landlock for files, and resource limits. Each of them may be missing, and
`Limits` says which ones hold.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_NEW_USER, _NEW_PROCESSES, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
"""Linux's CLONE_NEWUSER, CLONE_NEWPID and CLONE_NEWNET."""
_SIGNAL_OF_PARENTS_DEATH, _NO_NEW_PRIVILEGES = 1, 38
"""Linux's PR_SET_PDEATHSIG and PR_SET_NO_NEW_PRIVS."""
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of Landlock's system calls."""
_FILE_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
"""Landlock's rights to files, by the version that brought them."""
_SCOPES_VERSION, _SCOPES = 6, 0b11
"""Landlock's version with scopes: abstract sockets of other programs, and signals to them."""
_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_MAX_FILE_BYTES = 100_000_000
"""Largest file that the process can write."""
_READABLE = (
    *("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/mime.types", "/etc/ssl/openssl.cnf"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/self", "/sys/devices/system/cpu"),
)
"""Where systems keep programs, libraries and facts about themselves. Keys and data of users are elsewhere."""
_WRITABLE_DEVICES = ("/dev/null",)


@dataclass(frozen=True)
class Limits:
    """What the process cannot do."""

    network: bool
    """Whether it reaches no network."""
    files: bool
    """Whether it can read only programs and libraries, and write only to its own folder."""
    processes: bool
    """Whether each process that it starts ends with it."""


def confine(folder: Path, memory_bytes: int, packages: Iterable[str]) -> Limits:
    """Limit this process, and return how. It must not have a second thread.

    The process that calls this waits for a new one, in which this function returns.

    folder: where the process may write. packages: names of installed packages that it must be able to import.
    """
    is_linux = sys.platform == "linux"
    readable = [*map(Path, _READABLE), *_python_folders(packages)]
    network = is_linux and _leave(_NEW_NETWORK)
    processes = is_linux and _leave(_NEW_PROCESSES)
    end_with_parent()  # a process that changes its user namespace loses this setting
    if processes:
        _continue_in_child()
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, _MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # not every system has each limit
            resource.setrlimit(limit, (value, value))
    return Limits(network, is_linux and _restrict_files(readable, folder), processes)


def _leave(namespace: int) -> bool:
    """Move this process (for processes: its children) to a namespace of its own. Return whether the system allows
    it."""
    libc = ctypes.CDLL(None)
    return any(libc.unshare(flags) == 0 for flags in (namespace, _NEW_USER | namespace))


def end_with_parent() -> None:
    """Let the system end this process when the training ends, even in a function that never returns."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_OF_PARENTS_DEATH, signal.SIGKILL)


def _continue_in_child() -> None:
    """Return in a new process, the first of its namespace: when it ends, the system ends all others in there. This
    process waits for it, and ends as it does."""
    child = os.fork()
    if not child:
        end_with_parent()
        return
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))  # so that the training sees when the child has ended
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) % 256)


def _python_folders(packages: Iterable[str]) -> list[Path]:
    """Return the folders of Python, of this package, of the installed packages and of some others."""
    folders = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, str(Path(__file__).parents[1])]
    folders += [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    for package in packages:
        spec = find_spec(package)
        folders += [*(spec.submodule_search_locations or [spec.origin or ""])] if spec is not None else []
    return [Path(folder) for folder in folders if folder]


def _restrict_files(readable: Sequence[Path], folder: Path) -> bool:
    """Let this process, and all that it starts, read only some places and write only to a folder. Return whether the
    system can do that."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = sum(rights for since, rights in _FILE_RIGHTS_BY_VERSION.items() if since <= version)
    attributes = struct.pack("QQQ", handled, 0, _SCOPES)[: 24 if version >= _SCOPES_VERSION else 8]
    rules = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return False
    try:
        for path in readable:
            rights = _READ | _EXECUTE | (_LIST if path.is_dir() else 0)
            _allow(libc, rules, path, (rights | (_WRITE | _TRUNCATE) * (str(path) in _WRITABLE_DEVICES)) & handled)
        _allow(libc, rules, folder, handled)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    """Add a rule for what is at and below a path, if it exists."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        libc.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)
