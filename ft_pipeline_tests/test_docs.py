"""The generated pages say what the code says."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_generated_reference_is_up_to_date() -> None:
    pages = runpy.run_path(str(DOCS / "reference.py"))["pages"]()
    for name, text in pages.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"run `make docs`: {name} is out of date"
