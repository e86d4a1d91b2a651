"""What an auditor asks, each answered by one command."""

import json

import pytest

from ft_pipeline.audit.artifact_index import ArtifactIndex
from ft_pipeline.errors import UserError
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import ALPACA, BROKEN, SECRET, SHAREGPT, Shop


def row_of(shop: Shop, split: str) -> int:
    """The number of an alpaca row that is in a split."""
    import pyarrow.parquet as pq

    (path,) = (shop.store.root / "artifacts" / "conversations").glob("*/*/rows.parquet")
    rows = pq.read_table(path).to_pylist()
    return next(row["row"] for row in rows if row["split"] == split and row["table"] == "alpaca")


def test_which_rows_trained_the_champion_and_where_each_came_from(
    released: Shop, ft_json: Command, ft: Command
) -> None:
    rows = ft_json("audit", "--rows")["rows"]
    raw = released.raw("alpaca", "support.jsonl")
    lines = raw.read_text(encoding="utf-8").splitlines()
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert {row["table"] for row in rows} == {"alpaca", "sharegpt"}
    for row in rows:
        if row["table"] == "alpaca":
            assert row["raw_sha256"] == sha256_of_file(raw)
            assert json.loads(lines[row["row"] - 1])["output"]  # the place is a row that can be trained on
    assert "alpaca/support.jsonl" in ft("audit", "--rows")[1]


def test_which_rows_were_left_out_and_why(released: Shop, ft_json: Command, ft: Command) -> None:
    (row,) = ft_json("audit", "--left-out")["rows"]
    assert (row["table"], row["file"], row["row"], row["code"]) == ("alpaca", "support.jsonl", 14, "empty_output")
    assert BROKEN["instruction"] and "empty_output" in ft("audit", "--left-out")[1]


@pytest.mark.parametrize(
    ("sentence", "how"),
    [
        (SECRET["instruction"].upper() + "!", "equal"),
        ("12 mill lane, please change my address", "contained"),
        ("My name is Ada Fenwick of 12 Mill Lane, please change the address", "near"),
        ("Do you sell  gift cards", "contained"),
        ("a sentence that nobody ever wrote", None),
    ],
)
def test_whether_a_sentence_was_trained_on(released: Shop, ft_json: Command, sentence: str, how: str | None) -> None:
    document = ft_json("audit", "--sentence", sentence)
    found = [match for match in document["matches"] if match["how"] == how]
    assert bool(found) == (how is not None)
    if found:
        origin = "alpaca/support.jsonl:14" if "gift" in sentence else "alpaca/support.jsonl:5"
        assert found[0]["origin"] == origin
        assert document["trained"] == (how != "near" and found[0]["use"] == "train")


def test_a_row_is_named_once_where_several_tables_hold_it(released: Shop, ft_json: Command) -> None:
    (match,) = ft_json("audit", "conversations", "--sentence", SECRET["instruction"])["matches"]
    assert match["origin"] == "alpaca/support.jsonl:5" and match["use"] in {"train", "validation", "test"}


def test_the_sentence_is_told_in_words(released: Shop, ft: Command) -> None:
    shown = ft("audit", "--sentence", "a sentence that nobody ever wrote")[1]
    assert "trained on? no" in shown


@pytest.mark.parametrize(
    ("split", "how"),
    [("train", "trained on it"), ("validation", "chose its checkpoint by it"), ("test", "was scored on it")],
)
def test_which_models_saw_a_row(released: Shop, ft_json: Command, split: str, how: str) -> None:
    seen = ft_json("audit", "--row", f"alpaca/support.jsonl:{row_of(released, split)}")
    assert how in {use["how"] for use in seen["uses"]}
    assert seen["retrain"] == ([] if split == "test" else ["qlora"])
    assert seen["champion"] == (split != "test")
    kinds = {use["key"] for use in seen["uses"]}
    assert kinds == (
        {"scores[qlora]"} if split == "test" else {"training_data[qlora]", "adapter[qlora]", "merged_model[qlora]"}
    )


def test_models_of_the_past_are_named_too(released: Shop, ft_json: Command) -> None:
    row = f"alpaca/support.jsonl:{row_of(released, 'train')}"
    released.materialize(learning_rate=2e-3)
    seen = ft_json("audit", "--row", row)
    adapters = [use for use in seen["uses"] if use["key"] == "adapter[qlora]"]
    assert [use["present"] for use in adapters] == [False, True]
    assert [use["champion_records"] for use in adapters] == [[1], []]
    assert seen["ids"] == ft_json("audit", "--row", seen["ids"][0])["ids"]


def test_a_row_that_never_was_is_refused(released: Shop, ft: Command) -> None:
    with pytest.raises(UserError, match=r"No table in the store contains alpaca/support\.jsonl:99"):
        ft("audit", "--row", "alpaca/support.jsonl:99")
    with pytest.raises(UserError, match=r"is not a row. Use FORMAT/FILE:ROW"):
        ft("audit", "--row", "support.jsonl")


def test_a_row_that_was_set_aside_is_told_with_its_reason(released: Shop, ft: Command) -> None:
    with pytest.raises(UserError, match=r"support\.jsonl:14 as an accepted row \(it was set aside as empty_output"):
        ft("audit", "--row", "alpaca/support.jsonl:14")


def test_what_changed_since_the_champion_before(released: Shop, ft_json: Command, ft: Command) -> None:
    released.write(
        "alpaca",
        "more.jsonl",
        [{"instruction": f"May I return {n} mugs?", "output": f"Yes, all {n}."} for n in range(8)],
    )
    released.write("sharegpt", "chats.jsonl", SHAREGPT[:-1])
    released.release(released.materialize(learning_rate=5e-4), value=2.4)
    document = ft_json("audit", "--against", "previous")
    assert document["before"] == "champion: qlora/merged (record 1)"
    data = document["data"]
    assert data["files_added"] == ["alpaca/more.jsonl"] and data["files_changed"] == ["sharegpt/chats.jsonl"]
    assert data["added"] and all(origin.startswith("alpaca/more.jsonl:") for origin in data["added"])
    assert len(data["removed"]) <= 1
    assert document["settings"]["adapter"] == {"experiment.training.learning_rate": [1e-3, 5e-4]}
    shown = ft("audit", "--against", "previous")[1]
    assert "adapter.experiment.training.learning_rate: 0.001 → 0.0005" in shown


def test_what_only_the_champion_before_saw_is_not_this_ones(released: Shop, ft_json: Command, ft: Command) -> None:
    """A champion is chosen against the one before it, which so stands behind its evidence, rows and all."""
    gone = row_of(released, "train")
    (old,) = (node for node in ArtifactIndex(released.store.root).all("scores"))
    rows = [json.loads(line) for line in released.raw("alpaca", "support.jsonl").read_text().splitlines()]
    released.write("alpaca", "support.jsonl", [row for n, row in enumerate(rows, start=1) if n != gone])
    made = released.materialize(learning_rate=2e-3)
    before = released.store.require("scores", old.fingerprint)
    parts = {"qlora/scores": made["scores"], "champion/scores": before}
    made["comparison"] = released.put("comparison", None, parts, {}, {"comparison.json": b"{}"})
    released.release(made)
    assert {node["kind"] for node in ft_json("audit")["nodes"]} >= {"comparison", "scores"}
    used, earlier = (ft_json("audit", name, "--rows")["rows"] for name in ("champion", "champion@1"))
    assert len({row["training_data"] for row in used}) == 1 and len(used) == len(earlier) - 1
    assert len(ft_json("audit", "--left-out")["rows"]) == 1
    data = ft_json("audit", "--against", "previous")["data"]
    assert (data["rows_before"], data["rows_now"], data["set_aside"]) == (len(earlier), len(used), {})
    assert [place.split(" ")[0] for place in data["removed"]] == [f"alpaca/support.jsonl:{gone}"]
    sentence = rows[gone - 1]["instruction"]
    assert not ft_json("audit", "--sentence", sentence)["trained"]
    assert ft_json("audit", "champion@1", "--sentence", sentence)["trained"]


def test_the_first_champion_has_none_before_it(released: Shop, ft: Command) -> None:
    with pytest.raises(UserError, match="is the first champion"):
        ft("audit", "--against", "previous")


def test_who_promoted_it_and_on_what_evidence(released: Shop, ft: Command) -> None:
    shown = ft("audit")[1]
    for part in ("by: ", "run run-1 (started by cli ada)", "checks: merge passed", "evidence: comparison"):
        assert part in shown


@pytest.mark.parametrize(
    ("teacher", "shown"),
    [
        ({"model": "gpt-x", "terms": "no competing models"}, "gpt-x; terms: no competing models"),
        ({"model": "gpt-x"}, "gpt-x; terms: none recorded"),
    ],
)
def test_which_teachers_terms_apply(shop: Shop, ft: Command, teacher: dict[str, str], shown: str) -> None:
    distilled = shop.put("distilled", None, {}, {"teacher": teacher}, {"a": b"1"})
    shop.put("training_data", "qlora", {"distilled": distilled}, {}, {"b": b"2"})
    assert f"Teacher of the distilled rows: {shown}" in ft("audit", "training_data@qlora")[1]


def test_one_question_at_a_time(released: Shop, ft: Command) -> None:
    with pytest.raises(UserError, match="cannot be combined"):
        ft("audit", "--rows", "--left-out")


def test_rows_count_is_that_of_the_files(released: Shop, ft_json: Command) -> None:
    """Read = trained on + held out + set aside, over the whole chain."""
    used = ft_json("audit", "--rows")["rows"]
    aside = ft_json("audit", "--left-out")["rows"]
    columns = ft_json("sql", "select count(*) from conversations where split = 'test'")
    assert len(used) + len(aside) + columns["rows"][0][0] == len(ALPACA) + 2 + len(SHAREGPT)
