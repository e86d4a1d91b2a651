"""Where mutants are found, and how tests that reach them are seen. `make mutations` runs them."""

from pathlib import Path

import pytest

from benchmarks.mutation_tests import with_probes
from benchmarks.mutations import Mutant, Place, find

SOURCE = """
class Rules:
    def level(self, count):
        if count == 1:
            return 0.5
        elif count > 1:
            return (
                1 / count
            )
        return 1.0
"""
MUTANT = Mutant("decision", "ft_pipeline/rules.py", "Rules.level", "elif count > 1:", "elif count >= 1:")


def test_a_mutant_is_found_by_its_line_wherever_the_function_is_now(tmp_path: Path) -> None:
    package = tmp_path / "ft_pipeline"
    package.mkdir()
    assert find(MUTANT, tmp_path) is None
    (package / "moved.py").write_text("# a comment\n" + SOURCE)
    place = find(MUTANT, tmp_path)
    assert place == Place(package / "moved.py", 6)
    assert place.change(MUTANT.after).splitlines()[6] == "        elif count >= 1:"
    (package / "rules.py").write_text(SOURCE)
    assert find(MUTANT, tmp_path) == Place(package / "rules.py", 5)


def test_a_line_that_is_there_twice_is_no_place() -> None:
    assert (
        MUTANT.place(f"{SOURCE}        if count:\n            pass\n        elif count > 1:\n            pass\n")
        is None
    )


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
    assert rules.level(1) == 0.5
    assert reached == [1, 0]
    reached.clear()
    assert rules.level(4) == 0.25
    assert reached == [1, 2]
