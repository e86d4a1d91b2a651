"""Models that learned from rows which are test rows now are named, and not compared until they are trained again."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ft_pipeline.cli.display_comparison import show_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.desk import Desk
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.contaminated_models import find_contaminated
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline_tests.evaluation.moving_rows import GOLDEN, ROWS, Moving, load_steps

QUESTION = "Do you still repair wooden garden chairs from last year?"
ANSWER = (
    "Yes, bring them to the shop and we look at them together on Friday, when the joiner is in. Most chairs need new "
    "glue and two screws, which takes him an hour; a broken leg takes a week, because he turns it from the same wood. "
    "We tell you the price before he starts, and you pay when you collect the chair at the counter by the door."
)
CHATS = [
    {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
    for question, answer in ((QUESTION, ANSWER), ("Hello", "Hi"), ("Bye", "See you"))
]
UNRELATED = [
    {"instruction": f"Is model number {number} new?", "output": f"It is, since {number}."} for number in (1, 2)
]


@pytest.fixture
def moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moving:
    load_steps(monkeypatch)
    return Moving(tmp_path, "a", "b")


def rows_of(conversations: Artifact) -> dict[str, dict[str, Any]]:
    """Return the rows by table/file:row."""
    rows = pq.read_table(conversations.path / "rows.parquet").to_pylist()
    return {f"{row['table']}/{row['file']}:{row['row']}": row for row in rows}


def ids(conversations: Artifact, split: str) -> dict[str, str]:
    """Return the ids of a split by table/file:row."""
    return {place: row["id"] for place, row in rows_of(conversations).items() if row["split"] == split}


def moved_rows(before: Artifact, after: Artifact) -> list[str]:
    """Return the rows (table/file:row) that moved into the test split."""
    return sorted(ids(after, "test").keys() - ids(before, "test").keys())


def asks(place: str) -> dict[str, str]:
    """Return the row of ROWS at alpaca/a.jsonl:row."""
    return ROWS[int(place.rpartition(":")[2]) - 1]


def trained_on_chat(moving: Moving) -> tuple[Artifact, Artifact]:
    """Return (an adapter that was trained on the first of CHATS alone, its conversations)."""
    before = moving.conversations(sharegpt={"b.jsonl": CHATS})
    return moving.train("a", before, ids={"train": [rows_of(before)["sharegpt/b.jsonl:1"]["id"]]}), before


def names(comparison: Comparison) -> set[str]:
    return {row.name for row in comparison.rows}


def facts_of(moving: Moving, adapter: Artifact, conversations: Artifact) -> dict[str, Any]:
    return find_contaminated(moving.store, {"m": adapter}, conversations).get("m", {})


def test_a_model_that_trained_on_rows_of_a_larger_test_share_is_named_and_left_out(moving: Moving) -> None:
    small = moving.conversations()
    trained = moving.experiment("a", small, level=0.5)
    large = moving.conversations(test_share=0.3)
    moved = set(moved_rows(small, large))
    assert 5 < len(moved) < len(ROWS)
    moving.experiment("b", large)
    moving.score("a", trained, large, level=0.5)  # scored again, and not trained again
    comparison = moving.compare()
    assert names(comparison) == {"base", "b/adapter", "b/merged"}
    assert {name for lead in comparison.of_kind("lead") for name in (lead.row, lead.rival)} == names(comparison)
    (entry,) = comparison.contaminated
    assert (entry.model, entry.rows, len(entry.first)) == ("a", len(moved), 3)
    assert set(entry.first) < moved
    assert entry.fix == "Train it again with `ft run --experiment a`."
    moving.experiment("a", large, level=0.5)
    again = moving.compare()
    assert names(again) == {"base", "a/adapter", "a/merged", "b/adapter", "b/merged"}
    assert not again.contaminated


def test_a_model_with_older_scores_is_told_to_train_and_not_to_score_again(moving: Moving) -> None:
    moving.experiment("a", moving.conversations())
    moving.experiment("b", moving.conversations(test_share=0.3))
    comparison = moving.compare()
    assert [entry.model for entry in comparison.contaminated] == ["a"]
    assert not comparison.left_out


def test_a_golden_file_with_a_training_row_contaminates_the_model(moving: Moving) -> None:
    before = moving.conversations()
    adapter = moving.experiment("a", before)
    place = sorted(ids(before, "train"))[0]
    moved = moving.conversations({"a.jsonl": ROWS, GOLDEN: [asks(place), *UNRELATED]})
    found = facts_of(moving, adapter, moved)
    assert (found["rows"], found["first"]) == (1, [place])
    assert facts_of(moving, adapter, moving.conversations({"a.jsonl": ROWS, GOLDEN: UNRELATED})) == {}


def test_a_golden_row_near_a_training_row_contaminates_the_model(moving: Moving) -> None:
    """The training row, in another format and with another question, is set aside now."""
    adapter, _ = trained_on_chat(moving)
    near = {"instruction": QUESTION.replace("year?", "year, please?"), "output": ANSWER}
    after = moving.conversations({"a.jsonl": ROWS, GOLDEN: [near, *UNRELATED]}, {"b.jsonl": CHATS})
    set_aside = pq.read_table(after.path / "set_aside.parquet").to_pylist()
    assert [(row["code"], row["copy_of"]) for row in set_aside] == [("train_test_overlap", f"alpaca/{GOLDEN}:1")]
    assert facts_of(moving, adapter, after)["first"] == ["sharegpt/b.jsonl:1"]
    older = moving.rewritten(after, "set_aside.parquet", lambda table: table.drop_columns(["id"]))
    assert facts_of(moving, adapter, older) == {}


def test_a_golden_row_with_the_same_question_contaminates_the_model(moving: Moving) -> None:
    adapter, _ = trained_on_chat(moving)
    golden = [{"instruction": QUESTION.upper(), "output": "No."}, *UNRELATED]
    after = moving.conversations({"a.jsonl": ROWS, GOLDEN: golden})  # the chat itself is gone
    assert facts_of(moving, adapter, after)["first"] == ["sharegpt/b.jsonl:1"]


def test_erased_rows_do_not_count_as_the_same_question(moving: Moving) -> None:
    def erase_groups(table: pa.Table) -> pa.Table:
        position = table.schema.get_field_index("group")
        return table.set_column(position, "group", pa.array(["[forgotten]"] * len(table)))

    _, before = trained_on_chat(moving)
    erased = moving.rewritten(before, "rows.parquet", erase_groups)
    adapter = moving.train("a", erased, ids={"train": [rows_of(before)["sharegpt/b.jsonl:1"]["id"]]})
    after = moving.rewritten(moving.conversations(test_share=0.6), "rows.parquet", erase_groups)
    assert facts_of(moving, adapter, after) == {}


def test_rows_that_selected_the_checkpoint_count_and_unused_rows_do_not(moving: Moving) -> None:
    small, large = moving.conversations(), moving.conversations(test_share=0.6)
    moved = [rows_of(small)[place]["id"] for place in moved_rows(small, large)]
    stays = sorted(ids(large, "train").values())
    unused = moving.train("a", small, ids={"train": stays, "validation": stays[:1]})
    assert facts_of(moving, unused, large) == {}
    selected = moving.train("a", small, ids={"train": [*stays, *stays], "validation": [moved[0], moved[0]]})
    assert facts_of(moving, selected, large)["rows"] == 1


def test_all_phases_of_a_chain_count(moving: Moving) -> None:
    small, large = moving.conversations(), moving.conversations(test_share=0.6)
    moved = [rows_of(small)[place]["id"] for place in moved_rows(small, large)]
    first = moving.train("b", small, ids={"train": moved[:2]})
    clean = moving.train("a", large, start=first)
    assert facts_of(moving, clean, large)["rows"] == 2
    merged = moving.put("merged_model", {"adapter": first, "base_model": moving.base}, {"m": b"first"})
    base = moving.base
    moving.base = moving.put("base_model", {"merged_model": merged}, {"m": b"merged"})
    assert facts_of(moving, moving.train("a", large), large)["rows"] == 2
    moving.base = base
    assert facts_of(moving, moving.train("a", large), large) == {}


def test_pairs_and_texts_count_by_their_question(moving: Moving) -> None:
    small, large = moving.conversations(), moving.conversations(test_share=0.6)
    question = asks(moved_rows(small, large)[0])["instruction"]
    pair = {"prompt": question.lower(), "chosen": "It left us on Monday.", "rejected": "No idea."}
    pairs = moving.table("preferences", [{**pair, "prompt": "Is the shop open?"}, pair])
    pair_ids = pq.read_table(pairs.path / "rows.parquet")["id"].to_pylist()
    both = moving.train("a", small, ids={"train": pair_ids}, preferences=pairs)
    assert facts_of(moving, both, large)["first"] == ["preferences/b.jsonl:2"]
    assert facts_of(moving, moving.train("a", small, ids={"train": pair_ids[:1]}, preferences=pairs), large) == {}
    texts = moving.table("text", [{"text": "The shop is open from Monday to Friday."}, {"text": question}])
    blocks = {"train": ["text:train:0"]}
    assert facts_of(moving, moving.train("a", small, ids=blocks, text=texts), large)["first"] == ["text/b.jsonl:2"]
    left_out = [{"file": "b.jsonl", "row": 2, "code": "train_test_overlap", "copy_of": "alpaca/a.jsonl:1"}]
    without = moving.train("a", small, ids=blocks, left_out=left_out, text=texts)
    assert facts_of(moving, without, large) == {}
    of_another_table = [{"table": "conversations", "file": "b.jsonl", "row": 2, "code": "over_length", "tokens": 4000}]
    trained = moving.train("a", small, ids=blocks, left_out=of_another_table, text=texts)
    assert facts_of(moving, trained, large)["first"] == ["text/b.jsonl:2"]


def test_distilled_rows_count_by_the_question_of_their_prompt(moving: Moving) -> None:
    small, large = moving.conversations(), moving.conversations(test_share=0.6)
    row = rows_of(small)[moved_rows(small, large)[0]]
    written = {**row, "id": "d" * 64, "table": "unlabelled", "file": "inbox.jsonl", "row": 7}
    distilled = moving.put("distilled", {"conversations": small}, {"rows.parquet": pa.Table.from_pylist([written])})
    for conversations in (small, large):  # also if the answer was distilled before the rows moved
        adapter = moving.train("a", conversations, ids={"train": ["d" * 64]}, distilled=distilled)
        assert facts_of(moving, adapter, large)["first"] == ["unlabelled/inbox.jsonl:7"]
    assert facts_of(moving, moving.train("a", small, ids={"train": ["e" * 64]}, distilled=distilled), large) == {}


def test_the_list_is_shown_wherever_models_are_compared(moving: Moving) -> None:
    moving.experiment("a", moving.conversations())
    moving.experiment("b", moving.conversations(test_share=0.3))
    made = moving.run("comparison")
    comparison = read_comparison(made)
    sentence = comparison.contaminated[0].describe()
    assert sentence.startswith("a learned from ") and "alpaca/a.jsonl:" in sentence
    assert f"Not compared: {sentence}" in comparison_markdown(comparison)
    console = Console(record=True, width=200)
    show_comparison(console, comparison)
    assert f"Not compared: {sentence}" in console.export_text()
    reasons = recommend(Desk(comparison, comparison, {}, 20))["reasons"]
    part = f"after learning from rows that are test rows now: a (rows: {comparison.contaminated[0].rows})."
    assert any(part in reason for reason in reasons)
    assert json.loads((made.path / "comparison.json").read_text(encoding="utf-8"))["contaminated"][0]["model"] == "a"


def test_without_another_tuned_model_prompting_is_recommended_until_it_is_trained_again(moving: Moving) -> None:
    trained = moving.experiment("a", moving.conversations())
    large = moving.conversations(test_share=0.3)
    moving.baseline("a", large)
    moving.score("a", trained, large)
    again = moving.compare()
    found = recommend(Desk(again, again, {}, 20))
    assert found["decision"] == "train"
    assert found["reasons"][0].startswith("No tuned model can be compared until it is trained again.")


def test_scores_of_contaminated_models_alone_are_refused_by_name(moving: Moving) -> None:
    trained = moving.train("a", moving.conversations())
    moving.score("a", trained, moving.conversations(test_share=0.3))
    with pytest.raises(UserError, match=r"a learned from .* Train it again with `ft run --experiment a`\."):
        moving.compare()


def test_nothing_changes_while_no_row_moves(moving: Moving) -> None:
    """New training rows move no old row: the same document as without the search, and no key in spec or document."""
    before = moving.conversations()
    trained = moving.experiment("a", before)
    more = [*ROWS, {"instruction": "Do you sell gift cards at the counter?", "output": "Yes, at the counter."}]
    after = moving.conversations({"a.jsonl": more})
    assert facts_of(moving, trained, after) == {}
    moving.experiment("b", after)
    made = moving.run("comparison")
    assert "contaminated" not in made.spec["config"]
    assert "contaminated" not in made.document("comparison.json")
