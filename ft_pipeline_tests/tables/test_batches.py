"""What is done for whole batches gives what the rows would give one by one."""

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
TALK = st.lists(st.tuples(TEXTS, TEXTS, st.none() | TEXTS), min_size=1, max_size=3)


@given(st.lists(st.dictionaries(st.sampled_from(["instruction", "input", "output", "system", "more"]), CELLS) | CELLS))
def test_instructions_become_columns_as_they_do_one_by_one(values):
    converted = convert_all(FORMATS["alpaca"], values, shapes_of(values), PLAIN)
    alone = [convert(FORMATS["alpaca"], value, PLAIN) for value in values]
    assert converted.faults == {at: one for at, one in enumerate(alone) if isinstance(one, Fault)}
    good = [at for at, one in enumerate(alone) if not isinstance(one, Fault)]
    assert converted.sources.tolist() == good
    names = ("instruction", "input", "output", "system", "history")
    records = [dict(zip(names, alone[at], strict=True)) for at in good]
    assert converted.columns.drop_columns("id").to_pylist() == records
    assert converted.columns["id"].to_pylist() == [row_id(record) for record in records]


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5))
def test_ids_of_instructions_are_the_hash_of_their_json(rows):
    instruction, extra, output = (pa.array([row[at] for row in rows], pa.string()) for at in range(3))
    expected = [
        row_id({"instruction": i, "input": e, "output": o, "system": None, "history": None}) for i, e, o in rows
    ]
    texts = {"instruction": instruction, "input": extra, "output": output}
    assert ids_of_texts(texts, ("system", "history")).to_pylist() == expected


def turns(talk):
    found = []
    for human, model, thoughts in talk:
        answer = {"role": "assistant", "content": model}
        found += [{"role": "user", "content": human}, answer | ({"reasoning_content": thoughts} if thoughts else {})]
    return (found,)


RECORDS = {
    "alpaca": st.tuples(TEXTS, st.just("") | TEXTS, TEXTS, st.none() | TEXTS, st.none() | st.just([["a", "b [INST]"]]))
    | TEXTS.map(lambda text: (text, "", text.lower(), None, None))
    | st.tuples(TEXTS, TEXTS).map(lambda pair: (pair[0], pair[1], pair[1] + " ", None, None)),
    "sharegpt": TALK.map(turns) | TEXTS.map(lambda text: turns([(text, f" {text.upper()}", None)])),
    "text": st.tuples(TEXTS),
    "unlabelled": st.tuples(st.lists(st.builds(lambda text: {"role": "user", "content": text}, TEXTS), min_size=1)),
}


def frame_of(columns):
    def cells(column):
        if column.type == pa.string():
            return pd.Series(column.to_pylist(), dtype=pd.StringDtype(na_value=np.nan))
        found = np.empty(len(column), dtype=object)
        found[:] = column.to_pylist()
        return pd.Series(found, dtype=object)

    return pd.DataFrame({name: cells(column) for name, column in columns.items()})


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(sorted(RECORDS)))
def test_what_is_not_suspected_passes_every_check(data, data_format):
    row_format = FORMATS[data_format]
    columns = columns_of(row_format, data.draw(st.lists(RECORDS[data_format], min_size=1, max_size=4)))
    suspects = prefilter_rows(row_format, columns, row_format.comparison_texts(columns))
    assert set(find_faults(row_format, frame_of(columns), frozenset())) <= set(np.flatnonzero(suspects.faulty).tolist())
    for column in columns.values():
        for rows in pii.locate(*strings_of(column)).values():
            assert suspects.personal[rows].all()


@given(st.from_regex(re.compile(REFUSAL_PATTERN)))
def test_no_refusal_escapes_the_probe(text):
    if re.search(REFUSAL_PATTERN, text):
        assert re.search(REFUSAL_PROBE, text[:REFUSAL_PROBE_CHARS])


@given(st.lists(st.tuples(TALK.map(turns)), max_size=3))
def test_strings_of_a_column_know_their_row(rows):
    rows = [row[0] for row in rows]
    texts, owners = strings_of(columns_of(FORMATS["sharegpt"], rows)["messages"])
    expected = [
        (text, at)
        for at, (messages,) in enumerate(rows)
        for turn in messages
        for text in (turn["content"], turn.get("reasoning_content"))
        if text is not None
    ]
    assert sorted(zip(texts.to_pylist(), owners.tolist(), strict=True)) == sorted(expected)
    assert owners.tolist() == sorted(owners.tolist())
