"""Which mutants are drawn, and how tests that reach them are seen. `make mutations` runs them."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutation_sample import AREAS, mutants_of, sample
from benchmarks.mutation_tests import with_probes
from benchmarks.mutations import CHANGE_NOTHING, with_scores

SOURCE = """
class Rules:
    def level(self, count):
        if count == 1:
            return 0.5
        elif count > 1 and not self.rows:
            return (
                1 / count
            )
        return 1.0
"""
MODULES = [f"ft_pipeline/{name}.py" for name in AREAS["decision"][:2]]


@pytest.fixture
def module(tmp_path: Path) -> str:
    """The first module of an area, in a repository that has no other one."""
    (tmp_path / MODULES[0]).parent.mkdir(parents=True)
    (tmp_path / MODULES[0]).write_text(SOURCE)
    return MODULES[0]


def test_a_mutant_changes_an_operator_a_number_or_a_condition_in_one_line(tmp_path: Path, module: str) -> None:
    mutants = list(mutants_of("decision", module, tmp_path))
    assert {(mutant.line, mutant.after) for mutant in mutants} == {
        (3, "if count != 1:"),
        (3, "if count == 2:"),
        (4, "return 1.5"),
        (5, "elif count >= 1 and not self.rows:"),
        (5, "elif count > 2 and not self.rows:"),
        (5, "elif count > 1 or not self.rows:"),
        (5, "elif count > 1 and self.rows:"),
        (7, "1 * count"),
        (7, "2 / count"),
        (9, "return 2.0"),
    }
    assert {mutant.function for mutant in mutants} == {"Rules.level"}
    [last] = [mutant for mutant in mutants if mutant.line == 9]
    assert last.changed(SOURCE) == SOURCE.replace("        return 1.0", "        return 2.0")


def test_a_line_has_one_mutant_which_it_keeps_where_it_moves(tmp_path: Path, module: str) -> None:
    drawn = sample(tmp_path)
    assert sorted(mutant.line for mutant in drawn) == [3, 4, 5, 7, 9]
    (tmp_path / module).rename(tmp_path / MODULES[1])
    (tmp_path / MODULES[1]).write_text(f"# a comment\n{SOURCE}")
    assert [mutant.name for mutant in sample(tmp_path)] == [mutant.name for mutant in drawn]
    assert {mutant.module for mutant in sample(tmp_path)} == {MODULES[1]}


def test_an_operand_in_parentheses_keeps_them(tmp_path: Path, module: str) -> None:
    (tmp_path / module).write_text("def share(a, b):\n    return (a + b) * (not (a or b))\n")
    assert {mutant.after for mutant in mutants_of("decision", module, tmp_path)} == {
        "return (a - b) * (not (a or b))",
        "return (a + b) / (not (a or b))",
        "return (a + b) * ((a or b))",
        "return (a + b) * (not (a and b))",
    }


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the mutants that code with probes reaches."""
    numbers: list[int] = []
    monkeypatch.setattr("ft_pipeline.reached", numbers.append, raising=False)
    return numbers


def test_probes_say_which_statements_run(reached: list[int]) -> None:
    names: dict[str, type] = {}
    exec(with_probes(SOURCE, {0: 4, 1: 5, 2: 7, 3: 9}), names)
    rules = names["Rules"]()
    rules.rows = []
    assert rules.level(1) == 0.5
    assert reached == [1, 0]
    reached.clear()
    assert rules.level(4) == 0.25
    assert reached == [1, 2]


def test_scores_are_of_all_areas_and_of_the_mutants_that_both_commits_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHANGE_NOTHING, "same: x → y", "x is y")
    old = _area(
        killed=["a.py, f: x → y"], survived=["a.py, g: x → y", "a.py, same: x → y"], not_reached=["a.py, h: x → y"]
    )
    new = _area(killed=["b.py, f: x → y", "b.py, g: x → y", "b.py, new: x → y"], survived=["b.py, same: x → y"])
    results = with_scores({"1": {"areas": {"rows": old, "store": new}}, "2": {"areas": {"rows": new}}})
    assert [result["score"] for result in results.values()] == [
        {"mutants": 6, "killed": 4, "share": 0.667},
        {"mutants": 3, "killed": 3, "share": 1.0},
    ]
    assert [result["areas"]["rows"]["in_all_commits"] for result in results.values()] == [
        {"mutants": 2, "killed": 1, "share": 0.5},
        {"mutants": 2, "killed": 2, "share": 1.0},
    ]


def _area(**mutants: list[str]) -> dict[str, Any]:
    return {"mutants": {"killed": [], "survived": [], "not_reached": [], **mutants}}
