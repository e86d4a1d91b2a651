"""File names and rows that try to write to the terminal, to a page or to a query: they are shown as text everywhere."""

import json
import shutil
from pathlib import Path

import pytest

from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import ALPACA, Shop

TITLE, RED, C1, BIDI = "\x1b]0;owned\x07", "\x1b[31mred", "\x9b31mred", "\u202egnp.exe"
HTML = "<script>alert(1)</script><img src=x onerror=alert(2)>"
MARKUP = "[bold red]loud[/]"
NAME = f"a{RED}\n{BIDI}';drop table alpaca;--[red].jsonl"
ASKED = f"Where is my {MARKUP} parcel {C1} {BIDI}, {HTML}?"


@pytest.fixture(scope="module")
def hostile_once(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("hostile") / "shop")
    shop.write_project()
    rows = [{**row, "instruction": f"{ASKED} No. {n}: {row['instruction']}"} for n, row in enumerate(ALPACA)]
    broken = {"instruction": f"{TITLE}{RED}{HTML}{MARKUP}", "output": "Yes."}
    shop.write("alpaca", NAME, [*rows, broken])
    shop.release(shop.materialize())
    return shop


@pytest.fixture
def hostile(hostile_once: Shop, opened: Path) -> Shop:
    """A released project whose raw file has a hostile name and hostile rows: accepted, and set aside."""
    shutil.copytree(hostile_once.root, opened)
    return Shop(opened)


def harmless(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


@pytest.mark.parametrize(
    "command",
    [
        ("audit",),
        ("audit", "--verify"),
        ("audit", "--rows"),
        ("audit", "--left-out"),
        ("audit", "--sentence", ASKED),
        ("audit", "--row", f"alpaca/{NAME}:1"),
        ("sql", "select * from conversations"),
        ("sql", "select * from alpaca_set_aside"),
        ("champion",),
    ],
    ids=lambda command: " ".join(command[:2])[:20],
)
def test_no_escape_reaches_the_terminal(hostile: Shop, ft: Command, command: tuple[str, ...]) -> None:
    code, shown = ft(*command)
    assert code == 0 and shown.strip()
    assert harmless(shown)


def test_markup_and_html_are_shown_as_they_are(hostile: Shop, ft: Command) -> None:
    shown = ft("audit", "--sentence", ASKED)[1].replace("\n", "")
    assert MARKUP in shown and "<script>" in shown and "\\x9b31mred" in shown


def test_the_bytes_of_a_row_are_not_changed(hostile: Shop, ft_json: Command) -> None:
    """Only the display is made harmless; training uses the content of the file."""
    rows = ft_json("sql", "select instruction from alpaca where file <> 'support.jsonl'")["rows"]
    assert len(rows) == len(ALPACA)
    assert all(C1 in row[0] and BIDI in row[0] for row in rows)
    assert {row["file"] for row in ft_json("audit", "--left-out")["rows"]} == {NAME, "support.jsonl"}


def test_validating_a_hostile_file_prints_harmless_text(tmp_path: Path, ft: Command, opened: Path) -> None:
    path = tmp_path / NAME.replace("/", "")
    path.write_text(
        json.dumps({"instruction": f"{RED}{HTML}", "output": "x"}) + "\n" + f'{{"{RED}": 1\n', encoding="utf-8"
    )
    shown = ft("validate", str(path), "--format", "alpaca")[1]
    assert harmless(shown) and "control_characters" in shown


def test_erasing_a_hostile_row_prints_harmless_text(hostile: Shop, ft: Command) -> None:
    shown = ft("erase", str(hostile.raw("alpaca", NAME)), "1", "--reason", f"{RED}{MARKUP}")[1]
    assert harmless(shown)
    assert harmless(ft("audit")[1])
