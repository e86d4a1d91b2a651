"""How many planted leaks are found, and how many unrelated rows are touched: against the rule "any 13 words in a row".

    python benchmarks/leaks.py [--rows 60]

The texts are generated, in English, German and Chinese: words of a made-up lexicon with the frequencies of a real one,
idioms that many rows share, and stock sentences at the end of some. Some rows are held out; each is planted in eight
kinds of rows, with 0 to 30 % of its words changed (replaced, left out, or followed by another word). As many unrelated
rows have the same shapes. The truth is therefore known. Results go to benchmarks/results/leaks.json.
"""

import argparse
import html
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.held_out import HeldOut, SuiteTexts, read_held_out

RESULTS = Path(__file__).parent / "results" / "leaks.json"
LANGUAGES = ("english", "german", "chinese")
CHANGES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
"""Shares of changed words."""
PLAIN_WORDS = 13
LENGTHS = ((9, 24, 4, 30), (15, 60, 20, 90), (30, 90, 80, 240))
"""Smallest and largest number of words in a question, and in its answer, of three kinds of rows."""
Row = tuple[str, str]
"""A question and its answer."""


class Writer:
    """Writes rows of one language. Equal seeds give equal rows."""

    def __init__(self, language: str, seed: int = 0) -> None:
        draw = random.Random(f"{language} {seed}")
        self.separator = "" if language == "chinese" else " "
        self.ends = ("。", "？") if language == "chinese" else (".", "?")
        self.lexicon = _lexicon(language, draw)
        self.weights = list(accumulate(1 / (rank + 8) for rank in range(len(self.lexicon))))
        self.idioms = [draw.choices(self.lexicon, k=draw.randint(3, 6)) for _ in range(300)]
        self.stock = [self._sentence(draw, draw.randint(14, 24)) for _ in range(12)]
        self.german = language == "german"

    def words(self, draw: random.Random, count: int) -> list[str]:
        """Return words, an idiom among ten of them."""
        words: list[str] = []
        while len(words) < count:
            is_idiom = draw.random() < 0.04
            words += draw.choice(self.idioms) if is_idiom else draw.choices(self.lexicon, cum_weights=self.weights)
        return words[:count]

    def _sentence(self, draw: random.Random, count: int) -> str:
        return self.separator.join(self.words(draw, count)) + self.ends[0]

    def text(self, draw: random.Random, count: int) -> str:
        """Return a text of so many words, in sentences. A fifth of the texts end with a stock sentence."""
        sentences, left = [], count
        while left > 0:
            size = min(draw.randint(7, 19), left)
            sentences.append(self._sentence(draw, size))
            left -= size
        if count > 40 and draw.random() < 0.2:
            sentences.append(draw.choice(self.stock))
        return " ".join(sentences) if self.separator else "".join(sentences)

    def row(self, name: str) -> Row:
        """Return a row of this name."""
        draw = random.Random(name)
        low, high, answer_low, answer_high = draw.choice(LENGTHS)
        scale = 1 if self.separator else 2
        question = self.text(draw, scale * draw.randint(low, high))[:-1] + self.ends[1]
        return question, self.text(draw, scale * draw.randint(answer_low, answer_high))

    def changed(self, text: str, share: float, draw: random.Random) -> str:
        """Return the text with this share of its words changed."""
        words: list[str] = []
        for word in text.split(" ") if self.separator else list(text):
            kind = draw.choice(("replaced", "replaced", "left out", "followed")) if draw.random() < share else ""
            if kind in ("", "followed"):
                words.append(word)
            if kind in ("replaced", "followed"):
                words.append(draw.choice(self.lexicon))
        return self.separator.join(words)


def _lexicon(language: str, draw: random.Random) -> list[str]:
    if language == "chinese":
        return [chr(point) for point in draw.sample(range(0x4E00, 0x5800), 1200)]
    vowels = ("a", "e", "i", "o", "u", "ie", "ä", "ö", "ü") if language == "german" else ("a", "e", "i", "o", "u", "ou")
    starts = ("sch", "st", "br", "k", "l", "m", "w", "z", "f", "g") if language == "german" else (*"bcdfglmnprst", "th")
    words: dict[str, None] = {}
    while len(words) < 4000:
        syllables = draw.choice((1, 1, 2, 2, 3))
        words["".join(draw.choice(starts) + draw.choice(vowels) for _ in range(syllables)) + draw.choice("nrst")] = None
    return list(words)


def _turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def _log(question: str, answer: str) -> str:
    return json.dumps({"messages": _turns(question, answer), "status": 200}, indent=1)


def _call(question: str, answer: str) -> list[dict[str, Any]]:
    call = {"id": "1", "name": "store", "arguments": json.dumps({"asked": question, "answered": answer})}
    return [*_turns("Please store this."), {"role": "assistant", "content": "", "tool_calls": [call]}]


def _page(question: str, answer: str, other: Row) -> str:
    quoted = html.escape(answer).replace("ü", "&uuml;").replace("ä", "&auml;").replace("ö", "&#246;")
    return f"<html><body><h1>{html.escape(question)}</h1>\n<p>{quoted}</p><p>{html.escape(other[0])}</p></body></html>"


SHAPES: dict[str, Callable[[str, str, Row], Any]] = {
    "alpaca": lambda question, answer, other: _turns(question, answer),
    "sharegpt": lambda question, answer, other: _turns(*other, question, answer),
    "chat": lambda question, answer, other: _call(question, answer),
    "traces": lambda question, answer, other: _turns(f"{other[0]}\n{_log(question, answer)}", "OK."),
    "text": lambda question, answer, other: _page(question, answer, other),
    "preferences": lambda question, answer, other: _turns(f"{other[0][:12]} {question}", answer),
    "feedback": lambda question, answer, other: _turns("> " + question.replace(". ", ".\n> "), f"**{answer.upper()}**"),
    "unlabelled": lambda question, answer, other: _turns(f"{other[0]}\n\n{answer}\n\n{question}"),
}
"""The format → a row of it that holds a question and its answer, beside an unrelated row."""


def hold_out(language: str, rows: Sequence[Row], training: Sequence[Row], folder: Path) -> HeldOut:
    """Build the tables of some held-out and training rows, and return what is held out."""
    sources = []
    for name, part in (("golden.jsonl", rows), ("training.jsonl", training)):
        path = folder / name
        lines = (json.dumps({"instruction": question, "output": answer}) for question, answer in part)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        sources.append(SourceFile(name, path, "", {"split": "test"} if name == "golden.jsonl" else None))
    settings = DataSettings(validation_share=0, test_share=0)
    build_table("alpaca", sources, folder / "alpaca", max_quarantined=0.9, shares=settings)
    build_conversations({"alpaca": folder / "alpaca"}, folder / "out", settings=settings, suite=SuiteTexts())
    return read_held_out(folder / "out")


def found(held_out: HeldOut, documents: Sequence[Any]) -> list[bool]:
    """Return whether each document, a text or a conversation, shows something held out."""
    if not documents:
        return []
    search = held_out.in_texts if isinstance(documents[0], str) else held_out.in_conversations
    return [name is not None for name in search(documents)]


def _all_words(document: Any) -> list[str]:
    if isinstance(document, str):
        return list(words_of(document))
    texts = (
        text
        for turn in document
        for text in (turn["content"], *(call["arguments"] for call in turn.get("tool_calls", ())))
    )
    return [word for text in texts for word in words_of(text)]


def _windows(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + PLAIN_WORDS]) for at in range(len(words) - PLAIN_WORDS + 1)}


def measure(language: str, count: int, changes: Sequence[float] = CHANGES) -> dict[str, Any]:
    """Return the recall by shape and share of changed words, and the share of unrelated rows that are touched."""
    writer = Writer(language)
    rows, training, others, unrelated = (
        [writer.row(f"{language} {name} {number}") for number in range(count * times)]
        for name, times in (("held out", 1), ("training", 5), ("other", 1), ("unrelated", 1))
    )
    with tempfile.TemporaryDirectory() as folder:
        held_out = hold_out(language, rows, training, Path(folder))
    known = set().union(*(_windows(words_of(text)) for row in rows for text in row))

    def scores(shape: str, planted: Sequence[Row]) -> dict[str, float]:
        documents = [SHAPES[shape](*row, other) for row, other in zip(planted, others, strict=True)]
        plain = [not known.isdisjoint(_windows(_all_words(document))) for document in documents]
        return {"ours": sum(found(held_out, documents)) / count, "plain": sum(plain) / count}

    recall = {}
    for share in changes:
        draw = random.Random(f"{language} {share}")
        planted = [(writer.changed(row[0], share, draw), writer.changed(row[1], share, draw)) for row in rows]
        recall[str(share)] = {shape: scores(shape, planted) for shape in SHAPES}
    return {"recall": recall, "touched": {shape: scores(shape, unrelated) for shape in SHAPES}}


def mean(scores: dict[str, dict[str, float]], rule: str) -> float:
    """Return the mean over the shapes. rule: ours or plain."""
    return sum(score[rule] for score in scores.values()) / len(scores)


def main() -> None:
    import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60, help="held-out rows of each language")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine.describe(), "rows": arguments.rows, "plain_words": PLAIN_WORDS}
    result["languages"] = {language: measure(language, arguments.rows) for language in LANGUAGES}
    print(f"{'language':10}{'changed':>9}{'ours':>8}{'plain':>8}")
    for language, scores in result["languages"].items():
        for share, of_shapes in scores["recall"].items():
            print(f"{language:10}{float(share):9.0%}{mean(of_shapes, 'ours'):8.2f}{mean(of_shapes, 'plain'):8.2f}")
        touched = scores["touched"]
        print(f"{language:10}{'touched':>9}{mean(touched, 'ours'):8.3f}{mean(touched, 'plain'):8.3f}")
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
