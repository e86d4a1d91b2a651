"""The error analysis: kinds of faults, and the training rows that are like an answer."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.evaluation.error_analysis.answer_faults import OTHER, faults_of
from ft_pipeline.evaluation.error_analysis.similar_answers import SimilarAnswers
from ft_pipeline.evaluation.error_analysis.trained_rows import TrainedAnswer, trained_answers
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.relabels import TRAINED
from ft_pipeline_tests.training.subject import conversation

INVENTED = "name a number that neither the prompt nor the reference has"
JSON = '{"id": "a b"}'
MISSED = "leave out a number of the reference"
ROWS = [
    TrainedAnswer("alpaca/a.jsonl:1", "Where is my parcel?", "Please send your order number to our warehouse team."),
    TrainedAnswer("alpaca/a.jsonl:2", "Can I return shoes?", "You can return the shoes within thirty days."),
    TrainedAnswer("alpaca/a.jsonl:3", "荷物はどこですか", "注文番号を倉庫に送ってください。"),
]


def _sample(answer: str, reference: str = "The refund takes 5 days.", **more: Any) -> dict[str, Any]:
    ratio = len(answer) / len(reference)
    prompt = "Order 4711 is late. I paid 1,000 euro."
    return {
        "prompt": prompt,
        "answer": answer,
        "reference": reference,
        "finish_reason": "stop",
        "length_ratio": ratio,
        **more,
    }


@pytest.mark.parametrize(
    ("answer", "reference", "faults"),
    [
        ("Your refund takes 5 days.", "The refund takes 5 days.", [OTHER]),
        ("Order 4711 and the 1000 euro are safe.", "The refund for order 4711 is made.", [OTHER]),
        ("Your order 8822 is on its way today.", "Your order 4711 is on its way today.", [INVENTED, MISSED]),
        ("Yes, it is.", "Yes, it is on its way, and you will have it by tomorrow.", ["are less than half as long"]),
        ("Yes, it is on its way, and you will have it by tomorrow.", "Yes, it is sent.", ["are more than twice"]),
    ],
)
def test_numbers_and_lengths_that_differ_are_faults(answer: str, reference: str, faults: list[str]) -> None:
    found = faults_of(_sample(answer, reference))
    assert len(found) == len(faults)
    assert all(text.startswith(fault) for text, fault in zip(found, faults, strict=True))


def test_the_faults_of_rails_count_unless_the_rail_says_nothing_in_this_task() -> None:
    cut = _sample("The refund takes", finish_reason="length")
    assert faults_of(cut)[0] == "are cut off at the maximum length"
    assert faults_of(cut, {"cut_off"}) == [OTHER]


def test_what_checks_found_wrong_is_a_fault() -> None:
    outcomes = {"total": "wrong", "items": "missing", "id": "right", "reason": 0.4, "a": "extra", "b": "extra"}
    columns = {"order/fields": json.dumps(outcomes), "topic/expected": "refund", "topic/found": "delivery"}
    assert faults_of(_sample(JSON, JSON, **columns)) == [
        "have another value of `total`",
        "do not have `items`",
        "have a field that the reference does not have",
        "give the label 'delivery' in place of 'refund'",
    ]
    right = {"order/fields": json.dumps({"total": "right"}), "topic/expected": "refund", "topic/found": "refund"}
    assert faults_of(_sample(JSON, JSON, **right)) == [OTHER]
    [fault] = faults_of(_sample(JSON, JSON, **{"topic/expected": "refund", "topic/found": ""}))
    assert fault == "give no label in place of 'refund'"


def test_the_row_that_shares_most_of_an_answer_is_found_in_any_script() -> None:
    similar = SimilarAnswers(ROWS)
    found = similar.like_answer("Please send your order number to our warehouse team, thank you.")
    assert found is not None
    assert found.row is ROWS[0]
    assert found.shared == pytest.approx(7 / 9)
    japanese = similar.like_answer("注文番号を倉庫に送って。")
    assert japanese is not None
    assert japanese.row is ROWS[2]


def test_an_answer_of_which_no_row_has_a_sequence_has_no_row() -> None:
    assert SimilarAnswers(ROWS).like_answer("Completely different words everywhere.") is None
    assert SimilarAnswers([]).like_answer("Please send your order number.") is None
    assert SimilarAnswers([]).like_question("Where is my parcel?", "") is None


def test_the_row_with_the_most_similar_question_is_found() -> None:
    found = SimilarAnswers(ROWS).like_question("Where is my parcel, please?", "You can return the shoes")
    assert found is not None
    assert found.row is ROWS[0]
    assert found.shared == 0


def _put(store: ArtifactStore, kind: str, inputs: dict[str, Artifact], **files: list[dict[str, Any]]) -> Artifact:
    """An artifact with these Parquet files."""
    draft = store.begin(Spec(kind, {name: artifact.reference for name, artifact in inputs.items()}, {}))
    for name, rows in files.items():
        pq.write_table(pa.Table.from_pylist(rows), draft.out / f"{name}.parquet")
    return store.commit(draft, {})


def _learned(store: ArtifactStore, inputs: dict[str, Artifact], source: str, ids: list[str]) -> list[TrainedAnswer]:
    """The answers of an adapter whose training data has these ids."""
    train = [{"id": row_id, "source": source} for row_id in ids]
    return _learned_from(store, _put(store, "training_data", inputs, train=train))


def _learned_from(store: ArtifactStore, data: Artifact) -> list[TrainedAnswer]:
    base = _put(store, "base_model", {})
    return trained_answers(store, _put(store, "adapter", {"training_data": data, "base_model": base}))


def test_the_rows_of_grpo_are_the_references_of_its_prompts(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    rows = [conversation(number, [(f"Where is parcel {number}?", f"Near {number}.")], "train") for number in range(3)]
    inputs = {"conversations": _put(store, "conversations", {}, rows=rows)}
    assert _learned(store, inputs, "prompt", [rows[1]["id"]]) == [
        TrainedAnswer("alpaca/rows.jsonl:2", "Where is parcel 1?", "Near 1.")
    ]


def test_a_row_that_was_labeled_again_taught_its_new_label(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    rows = [conversation(number, [(f"Where is parcel {number}?", "refund")], "train") for number in range(2)]
    inputs = {"conversations": _put(store, "conversations", {}, rows=rows).reference}
    draft = store.begin(Spec("training_data", inputs, {}))
    pq.write_table(pa.Table.from_pylist([{"id": row["id"]} for row in rows]), draft.out / "train.parquet")
    (draft.out / TRAINED).write_text(json.dumps({rows[1]["id"]: "delivery"}), encoding="utf-8")
    learned = _learned_from(store, store.commit(draft, {}))
    assert {row.origin: row.answer for row in learned} == {
        "alpaca/rows.jsonl:1": "refund",
        "alpaca/rows.jsonl:2": "delivery",
    }


def test_the_rows_of_distill_are_the_answers_of_its_teacher(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    human = conversation(0, [("Where is my parcel?", "Near.")], "train")
    answers = [
        {
            "id": row_id,
            "table": table,
            "file": "rows.jsonl",
            "row": 1,
            "prompt_messages": [{"role": "user", "content": "Where is my parcel?"}],
            "answer": answer,
        }
        for row_id, table, answer in ((human["id"], "alpaca", "At home."), ("b" * 64, "unlabelled", "Outside."))
    ]
    conversations = _put(store, "conversations", {}, rows=[human])
    inputs = {
        "conversations": conversations,
        "teacher_distributions": _put(store, "teacher_distributions", {"conversations": conversations}, rows=answers),
    }
    assert _learned(store, inputs, "teacher", [human["id"], "b" * 64]) == [
        TrainedAnswer("alpaca/rows.jsonl:1", "Where is my parcel?", "At home."),
        TrainedAnswer("unlabelled/rows.jsonl:1", "Where is my parcel?", "Outside."),
    ]
