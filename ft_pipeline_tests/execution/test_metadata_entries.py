"""Metadata entries: what Dagster shows without a click, and what only a catalog needs."""

import dagster as dg
import pytest

from ft_pipeline.execution import metadata
from ft_pipeline.settings.instance import DagsterSettings


def test_a_long_list_of_sentences_is_a_table_that_needs_no_click() -> None:
    short, long = metadata.sentences(["one", "two"]), metadata.sentences(["a sentence of the rules"] * 100)
    assert isinstance(short, dg.MarkdownMetadataValue) and short.value == "- one\n- two"
    assert isinstance(long, dg.TableMetadataValue) and len(long.records) == 100


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
