"""Comparison texts, groups and hashes of a whole column equal those of its separate rows."""

import json
from hashlib import sha256

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.tables.dedup.keys import keys_of
from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.formats.alpaca import instruction_messages
from ft_pipeline.tables.formats.arrow_schema import columns_of
from ft_pipeline.tables.formats.comparison_texts import ComparisonTexts, normalise_all
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.text_rules import is_empty, normalise

TEXTS = st.text(max_size=30) | st.text("aB .,!\t\n\r\v\x1c\x1f\x7f\x00é　İſ", max_size=12)
OPTIONAL_TEXTS = st.none() | TEXTS
HISTORY = st.none() | st.lists(st.tuples(TEXTS, TEXTS).map(list), max_size=2)
CALLS = st.lists(st.builds(lambda text: {"name": "find", "arguments": json.dumps(text)}, TEXTS), max_size=2)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": TEXTS})
    | st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": TEXTS},
        optional={"reasoning_content": TEXTS.filter(bool), "tool_calls": CALLS},
    ),
    max_size=4,
)
OTHER_ROLES = ("assistant", "system", "tool")


def comparison_of(data_format, records) -> ComparisonTexts:
    row_format = FORMATS[data_format]
    return row_format.comparison_texts(columns_of(row_format, records))


@given(st.lists(TEXTS, max_size=8))
def test_a_column_is_normalized_like_its_texts(texts):
    assert normalise_all(pa.array(texts, pa.string())).to_pylist() == [normalise(text) for text in texts]


def normalized_texts(messages, *roles):
    parts = [part for turn in messages if turn["role"] in roles for part in parts_of(turn)]
    return " \x1f ".join(mark + normalise(text) for mark, text in parts)


def parts_of(turn):
    """The texts of a turn, each with the mark before it."""
    parts = [("", turn[key]) for key in ("content", "reasoning_content") if key in turn]
    calls = " ".join(f"{call['name']} {call['arguments']}" for call in turn.get("tool_calls", ()))
    return [*parts, ("\x1d", calls)] if calls else parts


def exact_text(messages):
    return "\x1f".join(
        "\x1e".join([turn["role"], *(mark + text for mark, text in parts_of(turn))]) for turn in messages
    )


@given(st.lists(MESSAGES, max_size=5))
def test_conversations_are_compared_by_prompt_answer_and_exact_text(rows):
    comparison = comparison_of("sharegpt", [(messages,) for messages in rows])
    assert comparison.prompts.to_pylist() == [normalized_texts(messages, "user") for messages in rows]
    assert comparison.answers.to_pylist() == [normalized_texts(messages, *OTHER_ROLES) for messages in rows]
    assert comparison.exact.to_pylist() == [exact_text(messages) for messages in rows]


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, OPTIONAL_TEXTS, HISTORY), max_size=5))
def test_alpaca_rows_are_compared_like_their_conversations(rows):
    turns = [
        [
            *instruction_messages(instruction, "" if is_empty(extra) else extra, system, history),
            {"role": "assistant", "content": output},
        ]
        for instruction, extra, output, system, history in rows
    ]
    comparison = comparison_of("alpaca", rows)
    assert comparison.prompts.to_pylist() == [normalized_texts(messages, "user") for messages in turns]
    assert comparison.answers.to_pylist() == [normalized_texts(messages, *OTHER_ROLES) for messages in turns]
    assert comparison.exact.to_pylist() == [exact_text(messages) for messages in turns]


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=4))
def test_comparison_texts_distinguish_a_pair_from_its_reverse(rows):
    def turn(role, text):
        return [{"role": role, "content": text}]

    pairs = [(turn("user", p), turn("assistant", c), turn("assistant", r)) for p, c, r in rows]
    comparison = comparison_of("preferences", pairs)
    assert comparison.prompts.to_pylist() == [normalise(prompt) for prompt, _, _ in rows]
    for (_, chosen, rejected), answer in zip(rows, comparison.answers.to_pylist(), strict=True):
        first, second = answer.rsplit(" \x1f ", 1)
        assert first == normalise(chosen)
        assert second.split(" ") == [f"\x1e{word}" for word in normalise(rejected).split(" ")]


ASK = {"role": "user", "content": "Where is order 10400?"}
CALL = {"id": "7", "name": "track", "arguments": '{"order":10400}'}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOOLS = '[{"type":"function","function":{"name":"track"}}]'


def test_calls_and_tools_distinguish_rows_and_ids_of_calls_do_not():
    rows = [
        ([ASK, CALLING],),
        ([ASK, {"role": "assistant", "content": 'track {"order":10400}'}],),
        ([ASK, {**CALLING, "tool_calls": [{**CALL, "arguments": '{"order":10401}'}]}],),
        ([ASK, CALLING], TOOLS),
        ([ASK, CALLING], TOOLS.replace("track", "find")),
        ([ASK, {**CALLING, "tool_calls": [{**CALL, "id": "8"}]}],),
    ]
    keys = keys_of(FORMATS["sharegpt"], [(*row, None)[:2] for row in rows])
    for hashes in (keys.exact, keys.normal):
        assert len(set(hashes.tolist())) == len(rows) - 1 and hashes[0] == hashes[-1]
    assert len(set(keys.prompt.tolist())) == 1


WITHOUT_NUMBERS_AND_NAMES = TEXTS.map(str.lower).filter(lambda text: not any(map(str.isnumeric, normalise(text))))


@given(st.lists(WITHOUT_NUMBERS_AND_NAMES, min_size=1, max_size=5))
def test_the_group_of_a_prompt_without_numbers_is_the_hash_of_its_words(texts):
    """And of the normalized prompt, if it has no words."""
    keys = keys_of(FORMATS["text"], [(text,) for text in texts])
    words = [" ".join(words_of(normalise(text))) or normalise(text) for text in texts]
    digests = [sha256(each.encode()).digest() for each in words]
    assert keys.group.astype(">u8").tobytes() == b"".join(digest[:16] for digest in digests)
