"""docs/architecture.md lists every file of the package."""

import re
from pathlib import Path

import ft_pipeline

PACKAGE = Path(ft_pipeline.__file__).parent
DOCUMENT = PACKAGE.parent / "docs" / "architecture.md"


def listed_files() -> list[str]:
    """The files named at the start of each list item below "Every file", relative to the package."""
    files, folder = [], ""
    for line in DOCUMENT.read_text(encoding="utf-8").partition("## Every file")[2].splitlines():
        if heading := re.fullmatch(r"`ft_pipeline/(.*)`", line):
            folder = heading[1]
        elif line.startswith("- "):
            files += [folder + name for name in re.findall(r"`([^`]+)`", line.partition(": ")[0])]
    return files


def test_each_file_is_listed_once() -> None:
    files = listed_files()
    present = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.name != "__init__.py" and "__pycache__" not in path.parts
    }
    assert sorted(set(files)) == sorted(present)
    assert len(files) == len(set(files))
