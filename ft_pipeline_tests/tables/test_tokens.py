"""Tokens, their fast path, and the templates of texts."""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ft_pipeline.tables.dedup.hashes import SpanHashes, mix
from ft_pipeline.tables.dedup.keys import _NUMBER
from ft_pipeline.tables.dedup.templates import template_hashes
from ft_pipeline.tables.dedup.tokens import CHARACTER, DIGITS, NUMBER, SIGN, WORD, tokenize, tokens_of, words_of

ASCII = st.text("aB1 ,.\n\tXy-+?\x1f\x7f", max_size=30) | st.text(st.characters(codec="ascii"), max_size=30)
ANY = ASCII | st.text(max_size=20)


@given(st.lists(ASCII, max_size=6))
def test_the_fast_path_gives_the_tokens_of_the_definition(texts):
    tokens = tokenize(texts)
    # A non-ASCII text sends all texts through the definition; it gives one more token at the end.
    slow = [tokenize([text + " é"]) for text in texts]
    assert tokens.counts.tolist() == [len(tokens_of(text)) for text in texts]
    assert tokens.kinds.tolist() == [kind for text in texts for _, kind in tokens_of(text)]
    assert tokens.hashes.tolist() == [value for alone in slow for value in alone.hashes[:-1].tolist()]


@given(st.lists(ANY, max_size=6))
def test_the_tokens_of_a_text_do_not_depend_on_its_neighbors(texts):
    together = tokenize(texts)
    alone = [tokenize([text]) for text in texts]
    assert together.hashes.tolist() == [value for tokens in alone for value in tokens.hashes.tolist()]
    assert together.counts.tolist() == [tokens.counts[0] for tokens in alone]


LONG = st.builds(lambda text, times: text * times, st.text("ab", min_size=1, max_size=9), st.integers(1, 60))


@given(st.lists(st.lists(LONG, min_size=1, max_size=5), max_size=5))
def test_the_hash_of_a_word_depends_only_on_its_characters(rows):
    tokens = tokenize([" ".join(words) for words in rows])
    words = [word for row in rows for word in row]
    known = dict(zip(words, tokens.hashes.tolist(), strict=True))
    assert [known[word] for word in words] == tokens.hashes.tolist()
    assert len(set(known.values())) == len(known)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("मेरा पार्सल कहाँ है?", ["मेरा", "पार्सल", "कहाँ", "है"]),
        ("என் பொட்டலம் எங்கே?", ["என்", "பொட்டலம்", "எங்கே"]),
        ("我的包裹在哪里？", list("我的包裹在哪里")),
        ("荷物はどこ", list("荷物はどこ")),
        ("Größe: STRASSE", ["grösse", "strasse"]),
        ("co\u00adop\u200b era", ["coop", "era"]),
        ("ﬁne", ["fine"]),
    ],
)
def test_words_of_many_scripts(text, words):
    assert list(words_of(text)) == words


def test_kinds_of_tokens():
    kinds = dict(tokens_of("Please, Anna Schmidt. The 12 boxes of AB-1234 and item123 are 在 here! I see"))
    assert kinds == {
        "please": WORD, ",": SIGN, "anna": WORD, "schmidt": WORD, ".": SIGN, "the": WORD, "12": DIGITS, "boxes": WORD,
        "of": WORD, "ab": WORD, "-": SIGN, "1234": NUMBER, "and": WORD, "item123": NUMBER, "are": WORD, "在": CHARACTER,
        "here": WORD, "!": SIGN, "i": WORD, "see": WORD,
    }  # fmt: skip


def same_template(first, second):
    hashes, is_template = template_hashes(tokenize([first, second]))
    return bool(is_template.all() and hashes[0] == hashes[1])


def test_texts_that_differ_in_an_order_number_have_one_template():
    assert same_template("Where is my order 10432?", "where is my order 99817")
    assert same_template("मेरा ऑर्डर 10432 कहाँ है", "मेरा ऑर्डर 55555 कहाँ है")
    first = "The parcel 10432 of 2024-05-01 did not arrive, so please tell me what to do now"
    assert same_template(first, first.replace("10432", "777123").replace("2024-05-01", "2023-11-30"))
    assert not same_template("Where is my order 10432?", "Where is my parcel 10432?")


def test_small_numbers_and_sums_are_no_templates():
    assert not same_template("Question 12 of mine", "Question 13 of mine")
    assert not same_template("What is the sum of 10432 and 99817?", "What is the sum of 20432 and 99817?")
    _, is_template = template_hashes(tokenize(["1234 5678 or 9999", "12345", ""]))
    assert not is_template.any()


def test_names_and_capital_letters_are_content():
    first, second = "Hello, I am Anna Schmidt and I want order 10432", "Hello, I am Bob and I want order 10432"
    assert not same_template(first, second)
    assert same_template(first, first.upper())


@example(["0:0:0:0:0\x1bAA:0:0:0"])
@given(st.lists(st.text("aZ19 ,.\n\x1f-", max_size=20) | ANY, max_size=5))
def test_the_pattern_of_numbers_misses_no_template(texts):
    _, is_template = template_hashes(tokenize(texts))
    for text, masked in zip(texts, is_template.tolist(), strict=True):
        assert not masked or not text.isascii() or re.search(_NUMBER, text)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.data())
def test_equal_spans_have_equal_hashes_wherever_they_are(values, data):
    # Mixed, as hashes of words are. Hypothesis tries the constants of the module, and one has the hash of nothing.
    hashes = mix(np.array(values * 2 + [7], dtype=np.uint64) ^ np.uint64(0x5BD1E9955BD1E995))
    begin = data.draw(st.integers(0, len(values)))
    end = data.draw(st.integers(begin, len(values)))
    spans = SpanHashes(hashes)
    here, there = spans.of(np.array([begin, begin + len(values)]), np.array([end, end + len(values)]))
    assert here == there
    if end > begin and len(set(values)) == len(values):
        assert spans.of(np.array([begin]), np.array([end])) != spans.of(np.array([begin]), np.array([end - 1]))
