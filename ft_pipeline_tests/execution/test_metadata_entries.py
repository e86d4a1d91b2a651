"""Metadata entries: what Dagster shows without a click, and what only a catalog needs."""

import json

import dagster as dg
import pytest

from ft_pipeline.execution import metadata
from ft_pipeline.page import Columns
from ft_pipeline.settings.instance import DagsterSettings
from ft_pipeline.store.text_redaction import PLACEHOLDER, ErasedTexts


def test_as_many_sentences_as_dagster_shows_need_no_click() -> None:
    assert metadata.sentences("reasons", []) == {}
    assert [value.value for value in metadata.sentences("reasons", ["one", "two"]).values()] == ["- one\n- two"]
    texts = [f"sentence {number} of the rules" for number in range(100)]
    shown, more = (value.value for value in metadata.sentences("reasons", texts).values())
    assert 900 < len(shown) <= metadata.SHOWN_CHARACTERS
    assert "\n".join([shown, more]).split("\n") == [f"- {text}" for text in texts]


def test_a_long_word_in_a_sentence_has_breaks() -> None:
    name = "x" * 70
    assert metadata.prose(f"Use {name}/merged.").value == f"Use {'x' * 28}  \n{'x' * 28}  \n{'x' * 14}/merged."
    (item,) = metadata.sentences("reasons", [f"{name} is used"]).values()
    assert item.value == f"- {'x' * 28}  \n  {'x' * 28}  \n  {'x' * 14} is used", "it stays an item of the list"
    chinese = "模型" * 50
    assert metadata.prose(chinese).value == chinese, "a browser breaks it anywhere"


def test_a_value_without_room_is_behind_a_click_and_complete() -> None:
    path, words = f"/srv/{'models/' * 12}tiny", f"see {'y' * 50} there"
    shown = metadata.clean_metadata({"path": path, "words": words, "short": "tiny", "digits": {"sha256": "0" * 64}})
    assert len(shown["path"].value) > metadata.SHOWN_CHARACTERS and shown["path"].value.rstrip() == path
    assert shown["words"].replace("\n", "") == words and "\n" in shown["words"]
    assert shown["short"] == "tiny"
    digits = shown["digits"].data
    assert digits["sha256"] == "0" * 64 and len(json.dumps(digits)) > metadata.SHOWN_CHARACTERS


def test_a_table_shows_the_columns_that_fit_and_all_behind_a_click() -> None:
    text = "a word " * 30
    row = {"name": "qlora/merged", "text": text, "more": "of the same " * 20, "n": 1, "id": "0" * 64}
    shown = metadata.clean_metadata({"rows": metadata.table([row, row])})
    assert list(shown) == ["rows", "all_rows"]
    assert shown["rows"].records[0].data == {"name": "qlora/merged", "text": f"{text[:100]}…", "n": 1}
    assert [column.name for column in shown["rows"].schema.columns] == ["name", "text", "n"]
    first, second, *rest = shown["all_rows"].data
    assert first == second == row and "".join(rest).isspace() is bool(rest)
    assert len(json.dumps(shown["all_rows"].data)) > metadata.SHOWN_CHARACTERS
    fits = metadata.clean_metadata({"rows": metadata.table([{"name": "base", "n": 1}])})
    assert list(fits) == ["rows"], "nothing is left out"


def test_a_shortened_cell_can_be_erased() -> None:
    """An erasure recognizes a text by its beginning and an ellipsis, so nothing is left out within it."""
    secret = f"My address is https://example.org/{'letters/' * 9} and I live in Leeds"
    (shown,) = metadata.clean_metadata({"rows": metadata.table([{"text": secret}])})["rows"].records
    assert shown.data["text"].endswith("…") and secret.startswith(shown.data["text"][:-1])
    assert ErasedTexts({}, frozenset({secret})).redact_text(shown.data["text"]) == f"{PLACEHOLDER}…"


def test_a_conversation_in_a_table_reads_like_one() -> None:
    turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]
    shown = metadata.table([{"messages": turns, "tags": ["late"]}])
    assert isinstance(shown, dg.TableMetadataValue)
    assert shown.records[0].data == {"messages": "user: Where is it?\nassistant: On its way.", "tags": "['late']"}


@pytest.mark.parametrize("columns", [False, True])
def test_tables_have_dagsters_columns_only_if_asked(columns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "dagster_settings", lambda: DagsterSettings(columns=columns))
    page = {"dagster/column_schema": Columns([("text", "str", "A passage")])}
    shown = metadata.clean_metadata(metadata.metadata_of_page(page))
    assert list(shown) == (["dagster/column_schema"] if columns else [])
