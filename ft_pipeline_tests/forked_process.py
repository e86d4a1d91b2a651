"""A module as a process of its own, in a moment: `python -m MODULE` imports for seconds what the test has imported."""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from typing import NoReturn


class ForkedProcess:
    """A fork of the test that runs a module as its main program, with what tests use of subprocess.Popen.

    Where it matters which libraries a process imports, or how Python ends (`atexit` does not run), take Popen.
    """

    def __init__(self, *arguments: str, **environment: str) -> None:
        """arguments: those of `run_python`; environment: variables to add."""
        self.returncode: int | None = None
        self._written = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.update(environment)
            self._run(arguments)

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

    def _run(self, arguments: tuple[str, ...]) -> NoReturn:
        for number, file in enumerate(self._written, start=1):
            os.dup2(file.fileno(), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        run_python(*arguments)


def run_python(program: str, *arguments: str) -> NoReturn:
    """Do in this process, a fork, what `python -m PROGRAM ARGUMENTS` does, and end it.

    program: a module, which finds the modules that the test has; or code, which imports ft_pipeline anew, and finds
    only the libraries.
    """
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        sys.argv = [program, *arguments]
        if program.replace(".", "").isidentifier():
            runpy.run_module(program, run_name="__main__")
        else:
            for name in [name for name in sys.modules if name.split(".")[0] == "ft_pipeline"]:
                del sys.modules[name]
            # That of conftest.py would load the graph of this repository, if the test has not loaded it yet.
            sys.meta_path[:] = [finder for finder in sys.meta_path if "conftest" not in type(finder).__module__]
            exec(compile(program, "<code of a test>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
