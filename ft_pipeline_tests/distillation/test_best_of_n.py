"""Best of n: the answer that agrees most with the others."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_pipeline.distillation.distill import agreements, best_of, distill
from ft_pipeline_tests.distillation.material import answer_row, write_answers, write_conversations

SAME = [
    "Please send your order number, and I'll look where the parcel is.",
    "Please send your order number, and I'll look where your parcel is now.",
    "We have no such product in our shop at the moment, sorry.",
    "Please send the order number, and I'll look where the parcel is.",
]


def sample(number: int, answer: str, **about: Any) -> dict[str, Any]:
    return {**answer_row(1, "My parcel is late, where has it gone?", answer), "sample": number, **about}


def test_the_answer_that_disagrees_with_the_others_is_never_best() -> None:
    scores = agreements(SAME)
    assert min(range(4), key=scores.__getitem__) == 2
    assert all(0 <= agreement <= 1 for agreement in scores)
    assert best_of(scores) == 0
    assert best_of(agreements([SAME[2], *SAME[:2]])) == 1


@pytest.mark.parametrize("answers", [["one"], ["one", "two"], ["", ""], ["same", "same", "same"]])
def test_ties_go_to_the_earlier_answer(answers: list[str]) -> None:
    assert best_of(agreements(answers)) == 0


def test_one_valid_answer_per_prompt_is_kept(tmp_path: Path) -> None:
    """Faulty samples are removed before the vote; the samples that lose the vote are set aside, too."""
    answers = [sample(0, "", finish_reason="stop"), *(sample(number, text) for number, text in enumerate(SAME, 1))]
    (tmp_path / "out").mkdir()
    summary = distill(
        write_answers(tmp_path / "answers", answers),
        write_conversations(tmp_path / "conversations"),
        tmp_path / "out",
        teacher={"model": "big", "fingerprint": "f" * 64},
    )
    (kept,) = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert kept["messages"][-1]["content"] == SAME[0]
    assert (summary["answers"], summary["kept"], summary["reasons"]) == (5, 1, {"empty_output": 1, "not_best": 3})
    aside = pq.read_table(tmp_path / "out" / "set_aside.parquet").to_pylist()
    assert all("with the other answers to its prompt" in row["message"] for row in aside if row["code"] == "not_best")


def test_teacher_answers_are_validated_like_human_rows(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    summary = distill(
        write_answers(tmp_path / "answers", [answer_row(1, "Where is it?", "Here is \x07 your bell, as ordered.")]),
        write_conversations(tmp_path / "conversations"),
        tmp_path / "out",
        teacher={"model": "big", "fingerprint": "f" * 64},
    )
    assert summary["reasons"] == {"control_characters": 1}
    (row,) = pq.read_table(tmp_path / "out" / "set_aside.parquet").to_pylist()
    assert "U+0007" in row["message"] and "sidecar" not in row["message"]
