"""Records `ft init` and `ft run` on a small example in a terminal of 80 columns, and draws docs/images/terminal.svg.

    pip install pyte
    python docs/pictures/terminal.py             # about five minutes on two free cores
    python docs/pictures/terminal.py --redraw    # draw the last recording again

build/terminal.cast is the recording in the format of asciinema. The picture plays it faster and ends on the last
screen. It needs no script and no font from elsewhere.
"""

import argparse
import codecs
import fcntl
import json
import os
import pty
import shutil
import struct
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import chain, groupby
from pathlib import Path
from typing import Any

COMMANDS = ("ft init labels --example-of classification", "ft run --project labels")
COLUMNS, ROWS = 80, 30
ROOT = Path(__file__).parents[2]
CAST, PICTURE = ROOT / "build" / "terminal.cast", ROOT / "docs" / "images" / "terminal.svg"

SAMPLE_SECONDS = 6.0
"""Seconds of the recording between two pictures, if no line was added."""
FRAME_SECONDS = 0.16
"""Seconds for which a picture is shown."""
CELL, LINE, FONT, MARGIN, BAR = 9.0, 19, 15, 14, 30
"""Pixels: width and height of a character, size of the font, margin, height of the window's bar."""
COLORS = {
    "default": "#d0d7de",
    "green": "#57d364",
    "red": "#ff7b72",
    "brown": "#e3b341",
    "cyan": "#56d4dd",
    "magenta": "#d2a8ff",
    "blue": "#79c0ff",
    "black": "#8b949e",
}
STYLE = """
text{font:%(font)spx ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace}
text{white-space:pre;fill:%(default)s}
.film{transform:translateX(-%(last)spx);animation:play %(seconds).2fs step-end 1}
@media (prefers-reduced-motion:reduce){.film{animation:none}}
@keyframes play{%(frames)s}
"""
Row = tuple[tuple[int, str, str, bool], ...]
"""A row of a screen, as its runs of letters: (column, text, color, bold)."""
Screen = tuple[Row, ...]
Event = tuple[float, str]
"""(seconds since the start, what was printed)."""


def record() -> list[Event]:
    """Run the commands one after another in a new folder. Returns what they printed, and when."""
    folder = Path(tempfile.mkdtemp(prefix="recording-"))
    home = folder / "home"
    home.mkdir()
    variables = {**os.environ, "HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    for name in ("NO_COLOR", "FT_PROJECT", "XDG_CONFIG_HOME", "COLUMNS"):
        variables.pop(name, None)
    events: list[Event] = []
    started = time.monotonic()
    try:
        for command in COMMANDS:
            events.append((time.monotonic() - started, f"\x1b[1m$ {command}\x1b[0m\r\n"))
            for text in _output(command.split(), folder, variables):
                events.append((time.monotonic() - started, text))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return events


def _output(command: Sequence[str], folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """Run a command in a pseudo-terminal. Yields what it prints; raises SystemExit if it fails."""
    process, terminal = pty.fork()
    if process == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.chdir(folder)
        os.execvpe(command[0], command, variables)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := _read(terminal):
        yield decoder.decode(data)
    _, status = os.waitpid(process, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}")


def _read(terminal: int) -> bytes:
    """Return what was printed next; nothing at the end, which Linux reports as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def write_cast(events: Sequence[Event]) -> None:
    """Write the recording as an asciicast (version 2)."""
    CAST.parent.mkdir(exist_ok=True)
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "timestamp": round(time.time())}
    lines = [header, *([round(when, 3), "o", text] for when, text in events)]
    CAST.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read_cast() -> list[Event]:
    """Return what was recorded."""
    _, *lines = CAST.read_text(encoding="utf-8").splitlines()
    return [(when, text) for when, _, text in map(json.loads, lines)]


def screens(events: Sequence[Event]) -> list[Screen]:
    """Return the screens of a recording: one for each line that was added, some in between, the last one."""
    import pyte

    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    shown: list[Screen] = []
    last = -SAMPLE_SECONDS
    for when, text in events:
        stream.feed(text)
        if "✓" in text or when - last >= SAMPLE_SECONDS:
            last = when
            if (now := _runs(screen)) not in shown[-1:]:
                shown.append(now)
    return [*shown, _runs(screen)]


def _runs(screen: Any) -> Screen:
    """Return the letters on the screen, those with the same looks together."""
    rows = []
    for row in range(ROWS):
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        runs, column = [], 0
        for (color, bold), group in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
            text = "".join(cell.data for cell in group)
            if text.strip():
                runs.append((column, text, color, bold))
            column += len(text)
        rows.append(tuple(runs))
    return tuple(rows)


def draw(shown: Sequence[Screen]) -> str:
    """Return the picture: all screens side by side, which move through a window."""
    width, height = 2 * MARGIN + CELL * COLUMNS, BAR + 2 * MARGIN + LINE * ROWS
    frames = "".join(
        f"{number / len(shown):.2%}{{transform:translateX(-{number * width:g}px)}}" for number in range(len(shown))
    )
    style = STYLE % {
        "font": FONT,
        "default": COLORS["default"],
        "last": f"{(len(shown) - 1) * width:g}",
        "seconds": len(shown) * FRAME_SECONDS,
        "frames": frames,
    }
    rows = {row: f"r{number}" for number, row in enumerate(dict.fromkeys(chain.from_iterable(shown)))}
    film = "".join(
        f'<g transform="translate({number * width + MARGIN:g} {BAR + MARGIN})">{_draw_screen(screen, rows)}</g>'
        for number, screen in enumerate(shown)
    )
    once = "".join(f'<g id="{name}">{_draw_row(row)}</g>' for row, name in rows.items() if row)
    circles = "".join(
        f'<circle cx="{MARGIN + 6 + 20 * number}" cy="{BAR // 2 + 2}" r="6" fill="{color}"/>'
        for number, color in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{_label(shown[-1])}"><style>{style}</style>'
        f'<defs>{once}</defs><rect width="{width:g}" height="{height:g}" rx="8" fill="#0d1117"/>{circles}'
        f'<g class="film">{film}</g></svg>\n'
    )


def _draw_screen(screen: Screen, names: Mapping[Row, str]) -> str:
    return "".join(f'<use href="#{names[row]}" y="{number * LINE}"/>' for number, row in enumerate(screen) if row)


def _draw_row(row: Row) -> str:
    texts = []
    for column, text, color, bold in row:
        start = len(text) - len(text.lstrip())
        letters = text.strip()
        weight = ' font-weight="700"' if bold else ""
        fill = "" if color == "default" else f' style="fill:{_hex(color)}"'
        texts.append(
            f'<text x="{(column + start) * CELL:g}" y="{FONT}" textLength="{len(letters) * CELL:g}" '
            f'lengthAdjust="spacingAndGlyphs"{weight}{fill}>{escape(letters)}</text>'
        )
    return "".join(texts)


def _hex(color: str) -> str:
    """Return a color of the terminal as one of the picture."""
    return COLORS.get(color) or f"#{color}"


def _label(screen: Screen) -> str:
    """Return the last screen as a text, for readers who do not see the picture."""
    lines = ["".join(text for _, text, _, _ in runs).strip() for runs in screen]
    return escape(" ".join(filter(None, lines)), quote=True)


def main() -> None:
    """Record and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraw", action="store_true", help="draw the last recording again")
    if not parser.parse_args().redraw:
        write_cast(record())
    PICTURE.write_text(draw(screens(read_cast())), encoding="utf-8")


if __name__ == "__main__":
    main()
