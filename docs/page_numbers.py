"""Numbers in the sentences and tables of a page: which result each comes from.

A block of text is a paragraph, a list, a table or a code block. Its numbers are compared with results if it has a
comment, or if a comment is the next block. A comment in a line of a table is for this line only:

    <!-- numbers: demo rows.qlora/merged, leads.qlora/merged over few_shot; also 8, 33 -->

`demo` is a result. The keys after it name parts of it (none: all of it). Each number of the block must be a number in
one of these parts, rounded, as a share in percent, or seconds in minutes. `also` lists numbers that are no
measurements. A block with `<!-- numbers: example -->` shows what an output looks like, and measures nothing.

A block without a comment that shows a measurement (an interval, or words such as "took 3 min") must be in earlier.yaml:
the measurements that no result has, with date, commit, machine and command.
"""

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

GENERATED = ("docs/settings.md", "docs/formats.md")
"""Pages without measurements, written by docs/reference.py."""
EXAMPLE = "example"
_COMMENT = re.compile(r"<!-- numbers: ([^\s;]+) ?([^;>]*?)(?:; also ([^>]*?))? -->")
_REGION = re.compile(r"<!-- results: .*?<!-- end -->", re.DOTALL)
_ANY_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.:+−-])[+−-]?(\d[\d,]*(?:\.\d+)?)(?![\w:]|[-_/.]\w)")
_NO_NUMBERS = re.compile(r"`[^`]*`|\]\([^)]*\)|\b95 ?%|\b\d{4}-\d\d-\d\d\b|^\d+\. |arXiv \d+\.\d+", re.MULTILINE)
"""Code, addresses, the level of intervals, dates, and the numbers of lists."""
_IN_OUTPUT = re.compile(r"(?<![\w.+−-])[+−-]?(\d[\d,]*\.\d+|\d+(?= (?:s|min|h|MB|GB)\b))(?![\w:]|[-_/.]\w)")
"""Numbers in a code block: decimals, and those with a unit."""
_N = r"[+−-]?\d[\d,]*(?:\.\d+)?"
_INTERVAL = re.compile(rf"[\[(](?:95 %: )?{_N}(?: %)? ?(?:to|–|,) {_N}(?: %| points)?(?:; [^()]*)?[\])]")
_WORDS = re.compile(
    r"\b([Mm]easured (?:on|with)|took (?:about )?\d|AMD EPYC|\d+ tokens/s|[Ii]n the worked example|"
    r"In [\d,]+ simulations|in simulations)"
)
_SECTIONS = re.compile(r"(?<!not )[Mm]easured|worked example|demo finds|What you see|still get wrong")
"""In sections of these names, every number is a measurement."""
_MANY_DECIMALS = 4
"""From so many on, the output of a command shows a measurement."""
FIELDS = ("page", "section", "date", "commit", "machine", "command", "numbers")
"""Keys of an entry of earlier.yaml."""
Read = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Block:
    """A paragraph, a table, or a code block."""

    section: str
    text: str
    after: str = ""
    """The comment that is the next block."""

    @property
    def is_code(self) -> bool:
        return self.text.lstrip().startswith("```")

    @property
    def comments(self) -> list[tuple[str, str, str]]:
        """For each comment: the result, its keys, the other numbers."""
        text = self.after if self.is_code else self.text + self.after
        return [(name, keys, also) for name, keys, also in _COMMENT.findall(text)]

    @property
    def numbers(self) -> list[str]:
        """The numbers as written, without signs and thousands separators."""
        text = _ANY_COMMENT.sub("", self.text)
        found = _IN_OUTPUT.findall(text) if self.is_code else _NUMBER.findall(_NO_NUMBERS.sub(" ", text))
        return [number.replace(",", "") for number in found]

    @property
    def is_measured(self) -> bool:
        is_settings = self.text.lstrip().startswith("```yaml")
        is_output = self.is_code and sum("." in number for number in self.numbers) >= _MANY_DECIMALS
        shown = any(pattern.search(self.text) for pattern in (_INTERVAL, _WORDS)) or _SECTIONS.search(self.section)
        return bool(shown or is_output) and bool(self.numbers) and not is_settings


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, without those that render writes. A comment alone belongs to the block before it."""
    found: list[Block] = []
    section, lines, in_code = "", [], False
    for line in [*_REGION.sub("", page).splitlines(), ""]:
        if line.lstrip().startswith("```"):
            in_code = not in_code
        is_heading = line.startswith("#") and not in_code
        if line.startswith("|") and _COMMENT.search(line):  # a line of a table that has its own comment
            found.append(Block(section, line))
            continue
        if in_code or (line.strip() and not is_heading):
            lines.append(line)
            continue
        if lines:
            _append(found, Block(section, "\n".join(lines)))
        section, lines = line.lstrip("# ") if is_heading else section, []
    return found


def _append(found: list[Block], block: Block) -> None:
    alone = not _ANY_COMMENT.sub("", block.text).strip()
    if alone and block.comments and found and found[-1].section == block.section:
        block = Block(block.section, found.pop().text, block.text)
    found.append(block)


def load(path: Path) -> list[dict[str, Any]]:
    """Return the measurements that no result has."""
    return list(yaml.safe_load(path.read_text(encoding="utf-8")) or [])


def problems(name: str, page: str, read: Read, earlier: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Return a sentence for each number that is not covered. name: the page's path from the repository's root."""
    if name in GENERATED:
        return
    sections: dict[str, list[Block]] = {}
    for block in blocks(page):
        if block.comments:
            yield from _differences(block, read)
        else:
            sections.setdefault(block.section, []).append(block)
    entries = [entry for entry in earlier if entry["page"] == name]
    for entry in entries:
        if missing := [key for key in FIELDS if not entry.get(key)]:
            yield f"earlier.yaml, {entry['section']!r}: {', '.join(missing)} is missing. Add it."
        if entry["section"] not in sections:
            yield f"earlier.yaml names a section {entry['section']!r} that the page does not have. Remove the entry."
    for section, parts in sections.items():
        listed = [number for entry in entries if entry["section"] == section for number in entry["numbers"].split()]
        yield from _not_listed(section, parts, listed)


def _not_listed(section: str, parts: Sequence[Block], listed: Sequence[str]) -> Iterator[str]:
    """Compare a section with its entry: it has every measured number, and no number that the section has not."""
    measured = [number for block in parts if block.is_measured for number in block.numbers]
    if (number := _first_missing(measured, listed)) is not None:
        yield f"{section!r}: {number} is in no result and not in earlier.yaml. Measure it, or list where it is from."
    if (number := _first_missing(listed, [number for block in parts for number in block.numbers])) is not None:
        yield f"{section!r}: earlier.yaml lists {number}, which the page does not show there. Correct one of them."


def _first_missing(wanted: Sequence[str], present: Sequence[str]) -> str | None:
    """Return the first number that breaks the order: `wanted` must be a subsequence of `present`."""
    rest = iter(present)
    return next((number for number in wanted if number not in rest), None)


def _differences(block: Block, read: Read) -> Iterator[str]:
    """Return the numbers of a block that its comments do not explain, and the keys that explain none."""
    candidates: list[tuple[str, float]] = []
    others: set[str] = set()
    for name, keys, also in block.comments:
        if name == EXAMPLE:
            return
        others |= set(also.replace(" ", "").split(","))
        for key in (each.strip() for each in keys.split(",")):
            values = list(_leaves(_part(read(name), key), "seconds" in key))
            if not values:
                yield f"{block.text[:60]!r}: {name} has no numbers at {key!r}. Correct the key."
            candidates += [(f"{name} {key}".strip(), value) for value in values]
    used: set[str] = set()
    for number in block.numbers:
        fitting = {key for key, value in candidates if _shows(number, value)}
        used |= fitting
        if not fitting and number not in others:
            near = min(candidates, key=lambda each: abs(each[1] - float(number)), default=("", float("nan")))
            yield f"{block.text[:60]!r}: {number} is not in the result; {near[1]:g} is the nearest. Correct the page."
    for key in dict(candidates).keys() - used:
        yield f"{block.text[:60]!r}: no number is from {key!r}. Remove the key."


def _part(document: Any, key: str) -> Any:
    """Return the part that a key names. Names in a key may contain points; numbers are positions in lists."""
    if not key:
        return document
    if isinstance(document, list):
        head, _, rest = key.partition(".")
        return _part(document[int(head)], rest) if head.isdigit() and int(head) < len(document) else None
    if not isinstance(document, dict):
        return None
    for name in sorted(document, key=len, reverse=True):
        if key == name or key.startswith(f"{name}."):
            return _part(document[name], key[len(name) + 1 :])
    return None


def _leaves(value: Any, in_seconds: bool) -> Iterator[float]:
    """Return the numbers in a part, also those in its texts; shares in percent, and seconds in minutes as well."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield from (value, value * 100)
        if in_seconds:
            yield value / 60
    elif isinstance(value, str):
        yield from (float(number.replace(",", "")) for number in _NUMBER.findall(value))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, in_seconds or "seconds" in key)
    else:
        for each in value:
            yield from _leaves(each, in_seconds)


def _shows(number: str, value: float) -> bool:
    """Return whether a number as written is a value, rounded. Signs do not count: "lower by 0.2" is -0.2."""
    digits = len(number.partition(".")[2])
    return abs(float(number) - abs(value)) <= 0.5 * 10**-digits + 1e-9


def draft(root: Path, page: Path, earlier: Sequence[Mapping[str, Any]]) -> str:
    """Return entries for earlier.yaml, for the sections of a page whose measurements nothing covers. The commit is the
    one that brought the first decimal number to the page; machine and command are to be filled in."""
    name, text = page.relative_to(root).as_posix(), page.read_text(encoding="utf-8")
    known = {entry["section"] for entry in earlier if entry["page"] == name}
    parts: dict[str, list[Block]] = {}
    for block in blocks(text) if name not in GENERATED else []:
        if not block.comments:
            parts.setdefault(block.section, []).append(block)
    found = ""
    for section, inside in parts.items():
        if section in known or not any(block.is_measured for block in inside):
            continue
        shown = [block for block in inside if block.is_measured or block.text.startswith("|")]
        numbers = [number for block in shown for number in block.numbers]
        commit, date = _origin(root, name, next((each for each in numbers if "." in each), numbers[0]))
        entry = {"page": name, "section": section, "date": date, "commit": commit, "machine": "", "command": ""}
        found += yaml.safe_dump(
            [{**entry, "numbers": " ".join(numbers)}], sort_keys=False, width=110, allow_unicode=True
        )
    return found


def _origin(root: Path, page: str, number: str) -> tuple[str, str]:
    command = ["git", "log", "--reverse", "--format=%h %as", f"-S{number}", "--", page]
    lines = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    commit, _, date = (lines[0] if lines else " ").partition(" ")
    return commit, date
