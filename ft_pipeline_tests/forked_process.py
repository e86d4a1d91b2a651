"""A module as a process of its own, in a moment: `python -m MODULE` imports for seconds what the test has imported."""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from typing import IO, NoReturn


class ForkedProcess:
    """A fork of the test that runs a module as its main program, with what tests use of subprocess.Popen.

    Where it matters what a process imports, or how Python starts and ends (`atexit` does not run), take Popen.
    """

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        """environment: variables to add."""
        self.returncode: int | None = None
        self._written = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.update(environment)
            _run(module, arguments, self._written)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def is_running(self) -> bool:
        return self.poll() is None

    def wait(self, timeout: float = 120) -> int:
        """Return the exit code. Raises TimeoutExpired after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.02)
        return code

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for the end; return what the process wrote to its output and to its errors."""
        self.wait(timeout)
        for file in self._written:
            file.seek(0)
        output, errors = (file.read().decode() for file in self._written)
        return output, errors

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(module: str, arguments: tuple[str, ...], written: list[IO[bytes]]) -> NoReturn:
    """Run the module in this process, and end it."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number, file in enumerate(written, start=1):
            os.dup2(file.fileno(), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
