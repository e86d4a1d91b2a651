"""A pseudo-terminal of 80 columns, for tests of what `ft` prints."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios

from ft_pipeline_tests.forked_process import run_python

ROWS, COLUMNS = 50, 80
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""A sequence that colors text or moves the cursor."""


def in_terminal(*arguments: str, **variables: str) -> str:
    """Run code with these arguments in the terminal. Returns what it printed, with its escape sequences."""
    process, terminal = pty.fork()
    if process == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.environ.update({"TERM": "xterm-256color", **variables})
        run_python(*arguments)
    output = b""
    with contextlib.suppress(OSError):  # Linux reports the end as an error
        while data := os.read(terminal, 65536):
            output += data
    os.close(terminal)
    os.waitpid(process, 0)
    return output.decode().replace("\r\n", "\n")
