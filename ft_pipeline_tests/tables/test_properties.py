"""Properties for all inputs: the parsers and the duplicates. laws/ has those of accounts and splits."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.tables.dedup.hashes import WINDOW, shingles_of
from ft_pipeline.tables.dedup.keys import keys_of
from ft_pipeline.tables.dedup.matching import find_duplicates, match_against
from ft_pipeline.tables.dedup.shingles import shingle, shingle_words
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.json_parser import parse_block, parse_carefully, parse_line
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty, normalise
from ft_pipeline_tests.examples import examples

TEXTS = st.text(max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(["a", "b", "c", "d", "e"])


@given(VALUES, st.booleans(), st.sampled_from([(", ", ": "), (",", ":"), (" , ", " : ")]))
def test_both_parsers_give_the_same_value(value, ascii_only, separators):
    line = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode("utf-8", "surrogatepass")
    parsed = parse_line(line)
    assert parsed == value or isinstance(parsed, Fault) or isinstance(value, float | int | list | dict)
    careful = parse_carefully(line)
    assert json.dumps(parsed, default=str) == json.dumps(careful, default=str) or isinstance(
        value, float | int | list | dict
    )


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_fault(line):
    for parse in (parse_line, parse_carefully):
        result = parse(line)
        assert not isinstance(result, Fault) or result.code in {
            "invalid_json",
            "not_utf8",
            "duplicate_key",
            "lone_surrogate",
        }


@given(
    st.lists(st.tuples(st.sampled_from(["k", "l", "m"]), st.integers(0, 9)), min_size=1, max_size=5),
    st.sampled_from(["", " ", "\t", "  "]),
)
def test_a_duplicate_key_is_always_detected(pairs, space):
    line = ("{" + ", ".join(f'"{key}"{space}: {value}' for key, value in pairs) + "}").encode()
    result = parse_line(line)
    has_duplicate = len({key for key, _ in pairs}) < len(pairs)
    assert (isinstance(result, Fault) and result.code == "duplicate_key") if has_duplicate else result == dict(pairs)


LINES = (
    b'{"k":"x"}', b'{"k":"x","l":null}', b'{"k":{"l":1}}', b'{"k":[1,{"l":2}]}', b'{"k":1,"k":2}', b'{"k" :1}',
    b'{"k":{"l":1,"l":2}}', b'{"k":"\\"l\\":"}', b'{"k":"x\\":"}', b'[1,{"k":1,"k":2}]', b'"x\\":"', b"7", b'{"k":',
    b'{"k":"\xff"}', b'{"k":"\\ud800","l":1}',
)  # fmt: skip


@given(st.lists(st.sampled_from(LINES), max_size=6))
def test_a_block_is_read_like_its_lines(lines):
    assert repr(parse_block(b"\n".join(lines), lines)) == repr([parse_line(line) for line in lines])


def read_shingles(texts):
    return lambda positions: shingle([normalise(texts[position]) for position in positions])


def shingle_set(text):
    words = shingle_words(normalise(text))
    return {tuple(words[start : start + 3]) for start in range(max(len(words) - 2, 1))}


def pairwise_duplicates(texts):
    """Positions of duplicates, by comparing pairs of texts. Of similar texts the first is kept."""
    kept, duplicates = [], set()
    for position, text in enumerate(texts):
        shingles = shingle_set(text)
        similar = [
            earlier
            for earlier in kept
            if 10 * len(shingles & shingle_set(texts[earlier])) >= 9 * len(shingles | shingle_set(texts[earlier]))
        ]
        if similar or any(normalise(text) == normalise(texts[earlier]) for earlier in range(position)):
            duplicates.add(position)
        else:
            kept.append(position)
    return duplicates


@examples(25)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=40), min_size=1, max_size=12), st.data())
def test_duplicates_are_among_those_of_a_pairwise_comparison(rows, data):
    texts = [" ".join(words) for words in rows]
    for _ in range(3):  # near duplicates: one word of a long text changed
        words = list(data.draw(st.sampled_from(rows))) * 3
        words[data.draw(st.integers(0, len(words) - 1))] = "z"
        texts += [" ".join(words), " ".join([*words, "y"])]
    matches = find_duplicates(keys_of(FORMATS["text"], [(text,) for text in texts]), read_shingles(texts))
    dropped, pairwise = set(np.flatnonzero(~matches.kept).tolist()), pairwise_duplicates(texts)
    exact = {number for number, text in enumerate(texts) if text in texts[:number]}
    # What three or more rows share may be an instruction: then rows that differ in little are not all dropped.
    assert exact <= dropped <= pairwise


@examples(15)
@given(
    st.lists(st.lists(WORDS, min_size=1, max_size=30), min_size=1, max_size=6),
    st.lists(st.lists(WORDS, min_size=1, max_size=30), min_size=1, max_size=6),
)
def test_match_against_compares_only_with_the_other_texts(new, old):
    new_texts, old_texts = ([" ".join(words) for words in rows] for rows in (new, old))
    matches = match_against(
        keys_of(FORMATS["text"], [(text,) for text in new_texts]),
        keys_of(FORMATS["text"], [(text,) for text in old_texts]),
        read_shingles([*old_texts, *new_texts]),
    )
    for position, text in enumerate(new_texts):
        shingles = shingle_set(text)
        has_match = any(
            10 * len(shingles & shingle_set(old_text)) >= 9 * len(shingles | shingle_set(old_text))
            for old_text in old_texts
        )
        assert (matches.of[position] >= 0) == has_match
        assert matches.of[position] < len(old_texts)


@given(st.lists(st.lists(WORDS, max_size=6), max_size=6))
def test_shingles_equal_those_of_a_simple_loop(rows):
    size = WINDOW
    hashes = np.array([ord(word) for words in rows for word in words], dtype=np.uint64)
    counts = np.array([len(words) for words in rows], dtype=np.int64)
    flat, lengths = shingles_of(hashes, counts)
    expected = [max(len(words) - size + 1, 1) for words in rows]
    assert lengths.tolist() == expected and len(flat) == sum(expected)
    known = {}
    position = 0
    for words, number in zip(rows, expected, strict=True):
        for start in range(number):
            window = tuple(words[start : start + size])
            assert known.setdefault(window, flat[position]) == flat[position]
            position += 1
    assert len(set(known.values())) == len(known)


@given(st.lists(TEXTS, max_size=8))
def test_shingles_of_a_text_do_not_depend_on_its_neighbors(texts):
    flat, lengths = shingle(texts)
    separate = [shingle([text])[0] for text in texts]
    assert flat.tolist() == [value for values in separate for value in values.tolist()]
    assert lengths.tolist() == [len(values) for values in separate]


@given(TEXTS)
def test_normalizing_ignores_outer_spaces_and_never_empties_a_text(text):
    once = normalise(text)
    assert normalise(f"  {text}\n") == once
    assert once or not text.split()
    assert not is_empty("x" + text)


def test_match_against_nothing_finds_nothing():
    texts = [(" ".join("abcdefgh"),), (" ".join("abcdefgh"),)]
    matches = match_against(keys_of(FORMATS["text"], texts), keys_of(FORMATS["text"], []), read_shingles([]))
    assert matches.of.tolist() == [-1, -1] and not matches.exact.any()
