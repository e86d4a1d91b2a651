"""The search of leaks at its working point, against the rule "any 13 words in a row": benchmarks/leaks.py in small."""

import html
import random

import pytest

from benchmarks import leaks
from ft_pipeline.tables import languages
from ft_pipeline.tables.dedup.tokens import tokenize
from ft_pipeline.tables.dedup.windows import windows_of
from ft_pipeline_tests.tables.helpers import build_chat_tables

GOLDEN = {"g.jsonl": {"split": "test"}}
ROWS = 12


def usual(*names):
    """All languages; those that are not named are long. English has spaces, Chinese has none."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.long) for name in leaks.LANGUAGES]


@pytest.fixture(autouse=True)
def _languages_of_few_rows(monkeypatch):
    """What languages the rows are in matters to no test here."""
    monkeypatch.setattr(languages, "SAMPLED_ROWS", 2)


@pytest.mark.parametrize("language", usual("english"))
def test_it_finds_more_and_touches_less_than_any_13_words_in_a_row(language):
    measured = leaks.measure(language, ROWS, (0.1, 0.3))
    tenth, third = measured["recall"].values()
    assert leaks.mean(tenth, "ours") >= 0.9
    for scores in (tenth, third):
        assert leaks.mean(scores, "ours") >= leaks.mean(scores, "plain")
    assert leaks.mean(measured["touched"], "ours") <= leaks.mean(measured["touched"], "plain")


def kept_of(tmp_path, asked, changed, answers=None):
    """The number of changed rows that stay in train, if the rows they were made from are held out."""
    replies = [f"Reply {number} for {text[:3]}" for number, text in enumerate(asked)]
    golden = [{"instruction": text, "output": reply} for text, reply in zip(asked, replies, strict=True)]
    rows = [
        {"instruction": text, "output": answer}
        for text, answer in zip(changed, answers or [f"{number} other" for number in range(len(asked))], strict=True)
    ]
    rows.append({"instruction": "Unrelated matter", "output": "Nothing of it."})
    report, _, _ = build_chat_tables(tmp_path, {"g.jsonl": golden, "a.jsonl": rows}, sidecars=GOLDEN)
    return report.splits["train"] + report.splits["validation"] - 1


def questions(language, count, low=10, high=30):
    writer = leaks.Writer(language, 3)
    draws = [random.Random(f"question {number}") for number in range(count)]
    return writer, [writer.text(draw, draw.randint(low, high)) for draw in draws]


def test_chinese_with_a_twentieth_of_changed_characters_is_found(tmp_path):
    writer, asked = questions("chinese", 40, 20, 60)
    changed = [writer.changed(text, 0.05, random.Random(text)) for text in asked]
    assert kept_of(tmp_path, asked, changed) <= 2


def test_a_chinese_question_behind_six_characters_is_found(tmp_path):
    writer, asked = questions("chinese", 40, 8, 24)
    draw = random.Random(1)
    assert kept_of(tmp_path, asked, ["".join(writer.words(draw, 6)) + text for text in asked]) == 0


@pytest.mark.parametrize("language", leaks.LANGUAGES)
def test_sentences_in_reverse_order_are_found(tmp_path, language):
    writer, asked = questions(language, 40, 30, 60)
    ends = writer.ends[0]
    turned = [ends.join(reversed(text.split(ends))) for text in asked]
    assert kept_of(tmp_path, asked, turned) == 0


@pytest.mark.parametrize("escape", [html.escape, lambda text: text.encode("ascii", "xmlcharrefreplace").decode()])
def test_questions_with_entities_and_tags_are_found(tmp_path, escape):
    asked = [f"Müller & Söhne: gilt für {text[:-1]} »Größe < {number}« & mehr?" for number, text in
             enumerate(questions("german", 40, 4, 9)[1])]  # fmt: skip
    changed = [f"<p class='x'>{escape(text).replace(' ', ' <b>', 1)}</b></p>" for text in asked]
    assert kept_of(tmp_path, asked, changed) == 0


@pytest.mark.parametrize("language", leaks.LANGUAGES)
def test_a_short_question_behind_a_few_words_is_found(tmp_path, language):
    size = 10 if language == "chinese" else 5
    writer, asked = questions(language, 30, size, size + 4)
    draw = random.Random(2)
    before = [writer.separator.join([*writer.words(draw, 3), ""]) for _ in asked]
    assert kept_of(tmp_path, asked, [first + text for first, text in zip(before, asked, strict=True)]) == 0


@pytest.mark.parametrize("language", usual("chinese"))
def test_no_test_row_has_one_of_ten_variants_in_train(tmp_path, language):
    """Of each row ten variants, each with a twentieth of its words changed: nearly all of their words are common."""
    kept = []
    for seed in (5, 6) if language == "german" else (5,):
        (folder := tmp_path / str(seed)).mkdir()
        kept.append(_kept_variants(folder, language, seed))
    assert sum(kept) > 0.9 * 300 * len(kept), "variants stay together; few are set aside"


def _kept_variants(folder, language, seed):
    """The number of 300 rows that are kept; none of those in the test rows has a variant in the training rows."""
    writer, asked = questions(language, 30, 30, 90)
    draw = random.Random(seed)
    rows = [
        {
            "instruction": writer.changed(text, 0.05, draw),
            "output": writer.changed(text[::-1], 0.05, draw),
            "tags": [str(at)],
        }
        for at, text in enumerate(asked)
        for _ in range(10)
    ]
    _, written, _ = build_chat_tables(folder, {"a.jsonl": rows})
    tests, train = ({row["tags"][0] for row in written if row["split"] == split} for split in ("test", "train"))
    assert tests.isdisjoint(train)
    assert len(train) > 10
    return len(written)


@pytest.mark.parametrize("length", [30, pytest.param(100, marks=pytest.mark.long), 400])
def test_questions_under_an_instruction_that_many_rows_share_are_apart(tmp_path, length):
    writer, asked = questions("english", 40, 8, 16)
    others = [writer.text(random.Random(f"other {number}"), 12) for number in range(40)]
    instruction = writer.text(random.Random(0), length)
    both = ([f"{instruction}\n\n{text}" for text in texts] for texts in (asked, others))
    assert kept_of(tmp_path, *both) == 40


def test_numbers_are_masked_only_where_they_are_the_smaller_part_of_a_window():
    texts = ["is my order 10432 now", "is my order 99817 now", "in 1990 1991 1992", "in 1994 1995 1996"]
    hashes, begins = windows_of(tokenize(texts), True)
    assert hashes[:2].tolist() == hashes[2:4].tolist() and hashes[4] != hashes[5]
    assert begins.tolist() == [0, 1, 5, 6, 10, 14]
