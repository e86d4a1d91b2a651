"""Commands of `ft` after each other, as a program for a fork of a test, which has the graph (forked_process.py).

`--print COMMAND …` lets them print, and ends with the highest exit code; `--json COMMAND …` prints one document: exit
code, output and errors of each.
"""

import contextlib
import io
import json
import shlex
import sys

from ft_pipeline.cli import main


def code_of(words: list[str]) -> int:
    """Run `ft WORDS`; return its exit code."""
    sys.argv = ["ft", *words]
    try:
        main()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return 0


if __name__ == "__main__":
    option, *commands = sys.argv[1:]
    if option == "--print":
        sys.exit(max([code_of(shlex.split(command)) for command in commands]))
    told = []
    for command in commands:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = code_of(shlex.split(command))
        told.append((code, out.getvalue(), err.getvalue()))
    print(json.dumps(told))
