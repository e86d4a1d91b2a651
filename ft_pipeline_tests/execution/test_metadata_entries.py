"""Metadata entries: what Dagster shows without a click, and what only a catalog needs."""

import dagster as dg
import pytest

from ft_pipeline.execution import metadata
from ft_pipeline.settings.instance import DagsterSettings


def test_as_many_sentences_as_dagster_shows_need_no_click() -> None:
    assert metadata.sentences("reasons", []) == {}
    assert [value.value for value in metadata.sentences("reasons", ["one", "two"]).values()] == ["- one\n- two"]
    texts = [f"sentence {number} of the rules" for number in range(100)]
    shown, more = (value.value for value in metadata.sentences("reasons", texts).values())
    assert 900 < len(shown) <= metadata.SHOWN_CHARACTERS
    assert "\n".join([shown, more]).split("\n") == [f"- {text}" for text in texts]


def test_a_sentence_is_read_without_scrolling_to_the_side() -> None:
    """A path or a hash below it makes the page wider than the window."""
    text = "**Use the fine-tuned model qlora/merged: it is right more often than few_shot.** It was trained once."
    shown = metadata.prose(f"{text}\n\nTwo\nthree {'long' * 20}").value
    first, paragraph = shown.split("\n\n")
    assert [line.strip() for line in first.split("\n")] == [
        "**Use the fine-tuned model qlora/merged: it",
        "is right more often than few_shot.** It was",
        "trained once.",
    ]
    assert first.count("  \n") == 2, "two spaces keep the break in Markdown"
    assert paragraph.replace("  \n", " ") == f"Two\nthree {'long' * 20}", "nothing is lost, and no word is cut"
    escaped = metadata.prose(f"{'x' * metadata.LINE_CHARACTERS} 1) and - more").value
    assert escaped.endswith("  \n1\\) and - more"), "a line must not begin a list"
    (item,) = metadata.sentences("reasons", ["word " * 30]).values()
    assert [line[:2] for line in (item.value or "").split("\n")] == ["- ", "  ", "  ", "  "]


def test_a_conversation_in_a_table_reads_like_one() -> None:
    turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]
    shown = metadata.table([{"messages": turns, "tags": ["late"]}])
    assert isinstance(shown, dg.TableMetadataValue)
    assert shown.records[0].data == {"messages": "user: Where is it?\nassistant: On its way.", "tags": "['late']"}


@pytest.mark.parametrize("columns", [False, True])
def test_tables_have_dagsters_columns_only_if_asked(columns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "dagster_settings", lambda: DagsterSettings(columns=columns))
    shown = metadata.table_columns([("text", "str", "A passage")])
    assert list(shown) == (["dagster/column_schema"] if columns else [])
