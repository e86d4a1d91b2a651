"""Processing a whole batch gives the same result as processing its rows separately."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.tables.checks import pii
from ft_pipeline.tables.checks.content_checks import find_faults
from ft_pipeline.tables.checks.prefilter import prefilter_rows, strings_of
from ft_pipeline.tables.formats.arrow_schema import columns_of
from ft_pipeline.tables.formats.convert import convert, convert_all, shapes_of
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.row_ids import ids_of_texts, row_id
from ft_pipeline.tables.formats.turns import texts_of_turn
from ft_pipeline.tables.reading.sidecar import PLAIN
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import REFUSAL_PATTERN, REFUSAL_PROBE, REFUSAL_PROBE_CHARS

PIECES = st.sampled_from(
    (
        *("<|im_end|>", "[INST]", "</s>", "{{ name }}", "\x07", "\x7f", "I am just an AI", "long " * 9000),
        *("As an AI language model, I'm sorry, I cannot", "Sorry, but I can't help with that request.", "word"),
        *("4111 1111 1111 1111", "+44 20 7946 0958", "DE89 3704 0044 0532 0130 00", "mail me@shop.example"),
        *("é", "İ", "?", " ", "\n", '"', "\\"),
    )
)
TEXTS = st.lists(PIECES | st.text(max_size=8), min_size=1, max_size=4).map(" ".join)
CELLS = TEXTS | st.none() | st.integers(0, 3) | st.sampled_from(["", " ", "\u200b", []])
EXCHANGES = st.lists(st.tuples(TEXTS, TEXTS, st.none() | TEXTS, st.none() | TEXTS), min_size=1, max_size=3)


KEYS = st.sampled_from(["instruction", "input", "output", "system", "tags", "more"])


@given(st.lists(st.dictionaries(KEYS, CELLS | st.just(["billing", "vip"])) | CELLS))
def test_a_batch_of_alpaca_rows_converts_like_single_rows(values):
    converted = convert_all(FORMATS["alpaca"], values, shapes_of(values), PLAIN)
    single_rows = [convert(FORMATS["alpaca"], value, PLAIN) for value in values]
    assert converted.faults == {position: row for position, row in enumerate(single_rows) if isinstance(row, Fault)}
    accepted = [position for position, row in enumerate(single_rows) if not isinstance(row, Fault)]
    assert converted.sources.tolist() == accepted
    names = ("instruction", "input", "output", "system", "history", "tools", "tags")
    records = [dict(zip(names, single_rows[position], strict=True)) for position in accepted]
    assert converted.columns.drop_columns("id").to_pylist() == records
    assert converted.columns["id"].to_pylist() == [row_id(record) for record in records]


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5))
def test_alpaca_ids_equal_the_row_id_of_each_row(rows):
    instruction, extra, output = (pa.array([row[column] for row in rows], pa.string()) for column in range(3))
    expected = [
        row_id({"instruction": question, "input": context, "output": answer, "system": None, "history": None})
        for question, context, answer in rows
    ]
    texts = {"instruction": instruction, "input": extra, "output": output}
    assert ids_of_texts(texts, ("system", "history")).to_pylist() == expected


def turns(exchanges):
    messages = []
    for human, model, thoughts, argument in exchanges:
        answer = {"role": "assistant", "content": model}
        messages += [{"role": "user", "content": human}, answer | ({"reasoning_content": thoughts} if thoughts else {})]
        if argument:
            answer |= {"tool_calls": [{"id": "1", "name": "find", "arguments": argument}]}
            messages[-1:] = [answer, {"role": "tool", "content": model, "name": "find", "tool_call_id": "1"}]
    return (messages,)


RECORDS = {
    "alpaca": st.tuples(TEXTS, st.just("") | TEXTS, TEXTS, st.none() | TEXTS, st.none() | st.just([["a", "b [INST]"]]))
    | TEXTS.map(lambda text: (text, "", text.lower(), None, None))
    | st.tuples(TEXTS, TEXTS).map(lambda pair: (pair[0], pair[1], pair[1] + " ", None, None)),
    "sharegpt": EXCHANGES.map(turns) | TEXTS.map(lambda text: turns([(text, f" {text.upper()}", None, None)])),
    "text": st.tuples(TEXTS, st.none() | st.lists(TEXTS)),
    "unlabelled": st.tuples(st.lists(st.builds(lambda text: {"role": "user", "content": text}, TEXTS), min_size=1)),
}


def frame_of(columns):
    def cells(column):
        if column.type == pa.string():
            return pd.Series(column.to_pylist(), dtype=pd.StringDtype(na_value=np.nan))
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_pylist()
        return pd.Series(values, dtype=object)

    return pd.DataFrame({name: cells(column) for name, column in columns.items()})


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(sorted(RECORDS)))
def test_rows_that_the_prefilter_skips_pass_every_check(data, data_format):
    row_format = FORMATS[data_format]
    columns = columns_of(row_format, data.draw(st.lists(RECORDS[data_format], min_size=1, max_size=4)))
    flags = prefilter_rows(row_format, columns, row_format.comparison_texts(columns))
    assert set(find_faults(row_format, frame_of(columns), frozenset())) <= set(np.flatnonzero(flags.faulty).tolist())
    for column in columns.values():
        for rows in pii.locate(*strings_of(column)).values():
            assert flags.personal[rows].all()


@given(st.from_regex(re.compile(REFUSAL_PATTERN)))
def test_the_refusal_probe_matches_every_refusal(text):
    if re.search(REFUSAL_PATTERN, text):
        assert re.search(REFUSAL_PROBE, text[:REFUSAL_PROBE_CHARS])


@given(st.lists(st.tuples(EXCHANGES.map(turns)), max_size=3))
def test_strings_of_a_column_come_with_their_row_index(rows):
    rows = [row[0] for row in rows]
    texts, row_indices = strings_of(columns_of(FORMATS["sharegpt"], rows)["messages"])
    expected = [
        (text, row_index)
        for row_index, (messages,) in enumerate(rows)
        for turn in messages
        for text in texts_of_turn(turn)
    ]
    assert sorted(zip(texts.to_pylist(), row_indices.tolist(), strict=True)) == sorted(expected)
    assert row_indices.tolist() == sorted(row_indices.tolist())
