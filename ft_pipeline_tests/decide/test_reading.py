"""What one reads to answer a question about a decision stays small (benchmarks/reading.py)."""

import pytest

from benchmarks import reading


@pytest.mark.parametrize("question", [name for name, (_, most, _) in reading.QUESTIONS.items() if most is not None])
def test_few_modules_are_entered_for_a_question(question: str) -> None:
    file, most, most_lines = reading.QUESTIONS[question]
    files = reading.entered(reading.PACKAGE / file)
    assert most is not None and len(files) <= most
    assert most_lines is None or sum(map(reading.lines_of, files)) <= most_lines


def test_no_file_of_decide_is_long() -> None:
    paths = (reading.PACKAGE / "decide").rglob("*.py")
    assert {path.name for path in paths if reading.lines_of(path) > reading.LONGEST} == set()
