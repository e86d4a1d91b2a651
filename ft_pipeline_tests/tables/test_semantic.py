"""Rows that mean the same as a held-out row are set aside, if the project asks for it."""

import numpy as np

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables import semantic, split_assignment
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline.tables.semantic import SemanticSearch
from ft_pipeline_tests.tables.helpers import build_chat_tables

TOPICS = {"kettle": 0, "teapot": 0, "parcel": 1, "package": 1, "lamp": 2, "museum": 3, "gallery": 3}
GOLDEN = {"g.jsonl": {"split": "test"}}


def embed(texts):
    """Vectors of unit length that point to the topics of a text."""
    vectors = np.full((len(texts), 5), 0.01, np.float32)
    for row, text in enumerate(texts):
        for word, topic in TOPICS.items():
            vectors[row, topic] += word in text
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def row(question, answer):
    return {"instruction": question, "output": answer}


TEST_ROWS = [row("How do I return a kettle?", "Use My Orders."), row("Any news?", "None of your parcel so far.")]
TRAIN_ROWS = [
    row("Sending back the teapot, please", "Open the page of your orders."),
    row("Say something", "The package is late."),
    row("Which lamp is bright?", "The third one."),
    row("What can I see downtown?", "There is a gallery."),
]


def set_aside_rows(tmp_path, search, **options):
    options = {"settings": DataSettings(validation_share=0, test_share=0), "sidecars": GOLDEN, **options}
    files = {"g.jsonl": TEST_ROWS, "a.jsonl": TRAIN_ROWS}
    _, _, set_aside = build_chat_tables(tmp_path, files, semantic=search, **options)
    return {row["row"]: (row["code"], row["message"], row["copy_of"]) for row in set_aside}


def test_training_rows_of_the_same_meaning_are_set_aside(tmp_path):
    assert set_aside_rows(tmp_path, SemanticSearch(embed, 0.9)) == {
        1: (
            "train_test_overlap",
            "means the same as the test row alpaca/g.jsonl:1 (similarity 1.00)",
            "alpaca/g.jsonl:1",
        ),
        2: (
            "train_test_overlap",
            "means the same as the test row alpaca/g.jsonl:2 (similarity 1.00)",
            "alpaca/g.jsonl:2",
        ),
    }


def test_without_an_embedding_model_meaning_makes_no_difference(tmp_path):
    assert set_aside_rows(tmp_path, None) == {}


def test_questions_and_texts_of_the_suites_count_as_held_out(tmp_path):
    suite = SuiteTexts(["Is there a museum?"], ["Yes."], ["A lamp gives light."])
    set_aside = set_aside_rows(tmp_path, SemanticSearch(embed, 0.9), suite=suite)
    assert set_aside[4][1:] == ("means the same as question 1 of the evaluation suites (similarity 1.00)", None)
    assert set_aside[3][1:] == ("means the same as text 1 of the evaluation suites (similarity 1.00)", None)
    assert sorted(set_aside) == [1, 2, 3, 4]


def test_a_validation_row_may_mean_the_same_as_another_one_but_not_as_a_test_row(tmp_path):
    files = {"a.jsonl": [row(f"{topic} number {n * 7919}?", f"Answer {n}.") for n in range(40) for topic in TOPICS]}
    shares = DataSettings(validation_share=0.3, test_share=0, group_templates=False)
    report, rows, _ = build_chat_tables(tmp_path, files, settings=shares, semantic=SemanticSearch(embed, 0.9))
    assert report.splits["validation"] > 50 and report.splits["train"] == 0
    (tmp_path / "again").mkdir()
    golden = {"g.jsonl": [row("About lamps", "A lamp is bright."), row("About kettles", "A kettle is hot.")], **files}
    report, rows, _ = build_chat_tables(
        tmp_path / "again",
        golden,
        settings=shares.model_copy(update={"golden_test": "added"}),
        sidecars=GOLDEN,
        semantic=SemanticSearch(embed, 0.9),
    )
    validation = [row["messages"][0]["content"] for row in rows if row["split"] == "validation"]
    assert validation and not any(word in text for text in validation for word in ("kettle", "teapot", "lamp"))


def test_blocks_give_the_same_result(tmp_path, monkeypatch):
    whole = set_aside_rows(tmp_path, SemanticSearch(embed, 0.9))
    monkeypatch.setattr(split_assignment, "BLOCK_ROWS", 1)
    monkeypatch.setattr(semantic, "BLOCK_HELD_OUT", 1)
    (tmp_path / "again").mkdir()
    assert set_aside_rows(tmp_path / "again", SemanticSearch(embed, 0.9)) == whole
