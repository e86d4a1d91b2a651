"""The questions of an auditor, each answered by one command."""

import json

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import ALPACA, BROKEN, SECRET, SHAREGPT, Shop


def row_of(shop: Shop, split: str) -> int:
    """The number of an alpaca row that is in a split."""
    import pyarrow.parquet as pq

    (path,) = (shop.store.root / "artifacts" / "conversations").glob("*/*/rows.parquet")
    rows = pq.read_table(path).to_pylist()
    return next(row["row"] for row in rows if row["split"] == split and row["table"] == "alpaca")


def test_the_audit_lists_the_champions_rows_and_their_origins(released: Shop, ft_json: Command, ft: Command) -> None:
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


def test_the_audit_lists_left_out_rows_with_reasons(released: Shop, ft_json: Command, ft: Command) -> None:
    (row,) = ft_json("audit", "--left-out")["rows"]
    assert (row["table"], row["file"], row["row"], row["code"]) == ("alpaca", "support.jsonl", 14, "empty_output")
    assert BROKEN["instruction"] and "empty_output" in ft("audit", "--left-out")[1]


@pytest.mark.parametrize(
    ("sentence", "how"),
    [
        (SECRET["instruction"].upper() + "!", "equal"),
        ("12 mill lane, please change the address", "contained"),
        ("My name is Ada Fenwick of 12 Mill Lane, please change my address", "near"),
        ("Do you sell  gift cards", "contained"),
        ("a sentence that nobody ever wrote", None),
    ],
)
def test_the_audit_says_whether_a_sentence_was_trained_on(
    released: Shop, ft_json: Command, sentence: str, how: str | None
) -> None:
    document = ft_json("audit", "--sentence", sentence)
    matches = [match for match in document["matches"] if match["how"] == how]
    assert bool(matches) == (how is not None)
    if matches:
        origin = "alpaca/support.jsonl:14" if "gift" in sentence else "alpaca/support.jsonl:5"
        assert matches[0]["origin"] == origin
        assert document["trained"] == (how != "near" and matches[0]["use"] == "train")


def test_a_row_in_several_tables_is_listed_once(released: Shop, ft_json: Command) -> None:
    (match,) = ft_json("audit", "conversations", "--sentence", SECRET["instruction"])["matches"]
    assert match["origin"] == "alpaca/support.jsonl:5" and match["use"] in {"train", "validation", "test"}


def test_the_answer_about_a_sentence_is_in_words(released: Shop, ft: Command) -> None:
    shown = ft("audit", "--sentence", "a sentence that nobody ever wrote")[1]
    assert "trained on? no" in shown


@pytest.mark.parametrize(
    ("split", "how"),
    [("train", "trained on it"), ("validation", "selected its checkpoint with it"), ("test", "was scored on it")],
)
def test_the_audit_lists_the_models_that_used_a_row(released: Shop, ft_json: Command, split: str, how: str) -> None:
    usage = ft_json("audit", "--row", f"alpaca/support.jsonl:{row_of(released, split)}")
    assert how in {use["how"] for use in usage["uses"]}
    assert usage["retrain"] == ([] if split == "test" else ["qlora"])
    assert usage["champion"] == (split != "test")
    kinds = {use["key"] for use in usage["uses"]}
    assert kinds == (
        {"scores[qlora]"} if split == "test" else {"training_data[qlora]", "adapter[qlora]", "merged_model[qlora]"}
    )


def test_earlier_models_are_listed_too(released: Shop, ft_json: Command) -> None:
    row = f"alpaca/support.jsonl:{row_of(released, 'train')}"
    released.materialize(learning_rate=2e-3)
    usage = ft_json("audit", "--row", row)
    adapters = [use for use in usage["uses"] if use["key"] == "adapter[qlora]"]
    assert [use["present"] for use in adapters] == [False, True]
    assert [use["champion_records"] for use in adapters] == [[1], []]
    assert usage["ids"] == ft_json("audit", "--row", usage["ids"][0])["ids"]


def test_an_unknown_row_is_refused(released: Shop, ft: Command) -> None:
    with pytest.raises(UserError, match=r"No table in the store contains alpaca/support\.jsonl:99"):
        ft("audit", "--row", "alpaca/support.jsonl:99")
    with pytest.raises(UserError, match=r"is not a row. Use FORMAT/FILE:ROW"):
        ft("audit", "--row", "support.jsonl")


def test_a_set_aside_row_is_reported_with_its_reason(released: Shop, ft: Command) -> None:
    with pytest.raises(UserError, match=r"support\.jsonl:14 as an accepted row \(it was set aside as empty_output"):
        ft("audit", "--row", "alpaca/support.jsonl:14")


def test_the_audit_shows_what_changed_since_the_previous_champion(
    released: Shop, ft_json: Command, ft: Command
) -> None:
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


@pytest.mark.parametrize(
    ("split", "how"),
    [("train", "trained on it"), ("validation", "selected its checkpoint with it"), ("test", None)],
)
def test_a_classifier_learned_from_the_rows_of_its_conversations(
    released: Shop, ft_json: Command, split: str, how: str | None
) -> None:
    conversations = released.store.all("conversations")[-1]
    released.put("word_model", None, {"conversations": conversations}, {}, {"model.safetensors": b"x"})
    released.put("word_model", None, {"conversations": conversations}, {"seed": 1}, {}, {"left_out": "one label"})
    uses = ft_json("audit", "--row", f"alpaca/support.jsonl:{row_of(released, split)}")["uses"]
    assert [use["how"] for use in uses if use["key"] == "word_model"] == ([how] if how else [])


def test_rows_of_the_previous_champion_alone_are_not_the_new_ones(
    released: Shop, ft_json: Command, ft: Command
) -> None:
    """The new champion was compared with the previous one, whose rows are still not the new one's."""
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


def test_the_first_champion_has_no_previous_one(released: Shop, ft: Command) -> None:
    with pytest.raises(UserError, match="is the first champion"):
        ft("audit", "--against", "previous")


def test_the_audit_shows_who_promoted_the_champion_and_why(released: Shop, ft: Command) -> None:
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
def test_the_audit_shows_the_teachers_terms(shop: Shop, ft: Command, teacher: dict[str, str], shown: str) -> None:
    distilled = shop.put("distilled", None, {}, {"teacher": teacher}, {"a": b"1"})
    shop.put("training_data", "qlora", {"distilled": distilled}, {}, {"b": b"2"})
    assert f"Teacher of the distilled rows: {shown}" in ft("audit", "training_data@qlora")[1]


def test_two_questions_at_once_are_refused(released: Shop, ft: Command) -> None:
    with pytest.raises(UserError, match="cannot be combined"):
        ft("audit", "--rows", "--left-out")


def test_the_audited_rows_add_up_to_those_of_the_files(released: Shop, ft_json: Command) -> None:
    """Read = trained on + held out + set aside, over the whole chain."""
    used = ft_json("audit", "--rows")["rows"]
    aside = ft_json("audit", "--left-out")["rows"]
    columns = ft_json("sql", "select count(*) from conversations where split = 'test'")
    assert len(used) + len(aside) + columns["rows"][0][0] == len(ALPACA) + 2 + len(SHAREGPT)
