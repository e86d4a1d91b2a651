"""Processing a whole batch gives the same result as processing its rows separately."""

import re
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.tables.checks import pii, placeholders
from ft_pipeline.tables.checks.row_rules import (
    MAX_ROW_CHARS,
    MIN_TEXT_CHARS,
    Rows,
    _texts_of_cell,
    find_faults,
    strings_of,
)
from ft_pipeline.tables.formats.arrow_schema import columns_of
from ft_pipeline.tables.formats.convert import convert, convert_all, shapes_of
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.row_ids import ids_of_texts, row_id
from ft_pipeline.tables.formats.turns import texts_of_turn
from ft_pipeline.tables.reading.sidecar import PLAIN
from ft_pipeline.tables.reason_codes import ROW_CODES, Fault
from ft_pipeline.tables.text_rules import (
    CONTROL_PATTERN,
    PLACEHOLDER_PATTERN,
    REFUSAL_PATTERN,
    SPECIAL_TOKEN_PATTERN,
    SPECIAL_TOKENS,
    normalise,
)
from ft_pipeline_tests.examples import examples

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


def breaks(pattern, texts):
    return any(pc.match_substring_regex(pa.array(texts, pa.string()), pattern).to_pylist())


def repeats(row):
    """Whether the answer repeats the prompt, stated row by row."""
    if "output" in row:
        same = row["output"].strip() and row["input"].strip() == row["output"].strip()
        return bool(same) or normalise(row["instruction"]) == normalise(row["output"])
    spoken = [turn for turn in row.get("messages", ()) if turn["role"] in ("user", "assistant")]
    return any(
        (human["role"], model["role"]) == ("user", "assistant")
        and normalise(human["content"]) == normalise(model["content"])
        and (len(spoken) == 2 or normalise(human["content"]).count(" ") >= 2)
        for human, model in pairwise(spoken)
    )


def codes_of(row_format, row):
    """The codes of the rules that a row breaks, each rule stated for one row."""
    cells = {name: _texts_of_cell(cell) for name, cell in row.items()}
    texts = [text for cell in cells.values() for text in cell]
    turns_of_model = [turn for turn in row.get("messages", ()) if turn["role"] == "assistant"]
    answers = [text for turn in turns_of_model for text in texts_of_turn(turn)] + cells.get("output", [])
    answers = answers if any(column.is_answer for column in row_format.columns) else []
    broken = {
        "control_characters": breaks(CONTROL_PATTERN, texts),
        "special_tokens": breaks(SPECIAL_TOKEN_PATTERN, texts),
        "unresolved_placeholder": breaks(PLACEHOLDER_PATTERN, texts),
        "refusal_boilerplate": breaks(REFUSAL_PATTERN, answers),
        "too_long": "too_long" in row_format.checks and sum(map(len, texts)) > MAX_ROW_CHARS,
        "too_short": "too_short" in row_format.checks and len(row["text"].strip()) < MIN_TEXT_CHARS,
        "output_equals_input": any(name.startswith("echoed") for name in row_format.checks) and repeats(row),
    }
    return [code for code in ROW_CODES if broken.get(code)]


@examples(20)
@given(st.data(), st.sampled_from(sorted(RECORDS)))
def test_each_kernel_finds_the_rows_that_break_its_rule(data, data_format):
    row_format = FORMATS[data_format]
    columns = columns_of(row_format, data.draw(st.lists(RECORDS[data_format], min_size=1, max_size=4)))
    rows = Rows.of(row_format, columns, row_format.comparison_texts(columns))
    broken = {position: codes_of(row_format, row) for position, row in enumerate(pa.table(columns).to_pylist())}
    faults = find_faults(rows, frozenset())
    assert {position: fault.code for position, fault in faults.items()} == {
        position: codes[0] for position, codes in broken.items() if codes
    }
    for name in columns:  # the search for all patterns at once leaves out no warning
        for locate in (pii.locate, placeholders.locate):
            assert locate(*rows.suspicious[name]) == locate(*rows.texts[name])


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


def test_every_text_that_may_break_a_pattern_is_searched():
    marks = [*SPECIAL_TOKENS, "<|reserved_special_token_7|>", "{{name}}", "[Name]", "@", "0 17 5 55-11 22", "AB12"]
    marks += [chr(point) for point in range(0x80) if re.search(CONTROL_PATTERN, chr(point))]
    row_format = FORMATS["text"]
    columns = columns_of(row_format, [(f"a {mark} b", *[None] * (len(row_format.columns) - 1)) for mark in marks])
    rows = Rows.of(row_format, columns, row_format.comparison_texts(columns))
    assert rows.suspicious["text"][1].tolist() == list(range(len(marks)))
