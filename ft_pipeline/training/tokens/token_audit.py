"""The token audit: checks that every row must pass before training, and statistics of the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.training.tokens.chat_tokens import MASKED, DroppedTurns, Encoded, Rendered


@dataclass(frozen=True)
class Row:
    """One training or validation row with its origin."""

    id: str
    source: str
    """`human`, `distilled`, `replay`, `preferred`, `rejected` or `text`."""
    split: str
    file: str
    row: int
    rendered: Rendered
    encoded: Encoded
    lost: DroppedTurns | None = None
    """What the chat template left out; None for all but the first text of a conversation."""

    @property
    def tokens(self) -> int:
        return len(self.encoded.input_ids)

    @property
    def trained(self) -> list[int]:
        return [label for label in self.encoded.labels if label != MASKED]


def audit(tokenizer: Any, rows: Sequence[Row], *, max_length: int, vocabulary: int) -> dict[str, Any]:
    """Return the checks and counts of all tokens of `rows`. `max_length` is in tokens, `vocabulary` is the number of
    rows of the model's embedding.

    Each check is {passed, value, message}; `value` is the number of faulty rows. A failed check stops the training.
    """
    return account(tokenizer, rows, answer_checks(tokenizer, rows), max_length=max_length, vocabulary=vocabulary)


def answer_checks(tokenizer: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the checks of rows whose assistant turns are trained."""
    return {"every_turn_rendered": _rendered_check(rows), **_content_checks(tokenizer, rows)}


def both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Combine the checks of two kinds of rows that train together, by name. A check passes if both pass."""
    return {
        name: {
            "passed": check["passed"] and second[name]["passed"],
            "value": check["value"] + second[name]["value"],
            "message": f"{check['message']}; {second[name]['message']}",
        }
        for name, check in first.items()
    }


def account(
    tokenizer: Any, rows: Sequence[Row], checks: dict[str, Any], *, max_length: int, vocabulary: int
) -> dict[str, Any]:
    """Return the document of audit(): the numbers, and `checks` together with those of every row (lengths and ids)."""
    over = [row for row in rows if row.tokens > max_length]
    lengths = np.array([row.tokens for row in rows])
    tokens, trained = int(lengths.sum()), sum(len(row.trained) for row in rows)
    counts, edges = np.histogram(lengths, bins=min(24, max(1, int(lengths.max() - lengths.min()))))
    return {
        "checks": {
            "no_over_length": check(
                over,
                f"no row is longer than the max_length of {max_length} tokens",
                f"longer than the max_length of {max_length} tokens",
                "nothing is truncated: raise training.max_length, or shorten or remove the rows",
            ),
            **checks,
            "ids_in_vocabulary": check(
                [row for row in rows if max(row.encoded.input_ids, default=0) >= vocabulary],
                f"every token id is below the model's vocabulary of {vocabulary}",
                f"with a token id outside the model's vocabulary of {vocabulary}",
                "choose a base_model that has an embedding for every token of its tokenizer",
            ),
        },
        "lengths": {f"p{p}": int(np.percentile(lengths, p)) for p in (50, 90, 99)} | {"max": int(lengths.max())},
        "histogram": {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]},
        "rows": _count_rows(rows),
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": trained / tokens,
        "split_by_turn": sum(row.rendered.split_by_turn for row in rows),
        "reasoning": _count_reasoning(rows),
        "example": _example(tokenizer, rows),
        "over_length": [{"id": row.id, "file": row.file, "row": row.row, "tokens": row.tokens} for row in over],
    }


def failures(report: dict[str, Any]) -> list[str]:
    """Return the messages of the failed checks."""
    return [f"{name}: {check['message']}" for name, check in report["checks"].items() if not check["passed"]]


def _content_checks(tokenizer: Any, rows: Sequence[Row]) -> dict[str, Any]:
    stops = set(stop_token_ids(tokenizer))
    bos = tokenizer.bos_token_id
    return {
        "every_row_trains": check(
            [row for row in rows if not row.trained],
            "every row has at least one trained token",
            "without a trained token",
        ),
        "stop_token_trained": check(
            [row for row in rows if not _stops(row.encoded, stops)],
            "every assistant turn ends with a trained stop token",
            "with an assistant turn whose stop token is not trained",
            "the model would never learn to stop: use a chat template that writes a control token after each answer",
        ),
        "single_bos": check(
            [row for row in rows if bos is not None and row.encoded.input_ids[:2] == [bos, bos]],
            "no row begins with two BOS tokens",
            "beginning with two BOS tokens",
        ),
        "padding_never_trained": check(
            [row for row in rows if not _labels_stand_on_tokens(row.encoded)],
            "every label equals the token at its position; padding is added after the labels and is masked by position",
            "with a label that differs from the token at its position",
        ),
        "prompts_masked": check(
            _not_exactly_the_answers(tokenizer, rows),
            "the trained tokens of every row decode to exactly its assistant turns",
            "whose trained tokens are not exactly the assistant turns",
        ),
    }


def _rendered_check(rows: Sequence[Row]) -> dict[str, Any]:
    faulty = [row for row in rows if row.lost and row.lost.turns]
    what = ", ".join(f"{row.file}:{row.row} {row.lost.turns[0]}" for row in faulty[:3] if row.lost)
    return check(
        faulty,
        "every rendered conversation contains the text of all its turns",
        f"with a turn that the chat template omits ({what})",
        "choose a base_model whose template renders such turns, or remove them from the data",
    )


def _count_reasoning(rows: Sequence[Row]) -> dict[str, Any]:
    """Count turns with reasoning. Answers do not need it, so a template without it fails no check, but is reported."""
    reasoning = [row for row in rows if row.lost and row.lost.reasoning]
    without = [row for row in reasoning if row.lost and row.lost.reasoning_left_out]
    turns = sum(row.lost.reasoning for row in reasoning if row.lost)
    left_out = sum(len(row.lost.reasoning_left_out) for row in without if row.lost)
    message = ""
    if turns:
        message = f"{turns - left_out} of {turns} turns with reasoning are trained with it"
    if left_out:
        first = ", ".join(f"{row.file}:{row.row}" for row in without[:5])
        message += f"; the chat template omits the reasoning of the other {left_out} (first: {first})"
    return {"turns": turns, "left_out": left_out, "message": message}


def check(faulty: Sequence[Row], holds: str, fault: str, advice: str = "") -> dict[str, Any]:
    """Return a check of the audit. Its message is `holds`, or the number of faulty rows, the first of them and the
    advice."""
    if not faulty:
        return {"passed": True, "value": 0, "message": holds}
    first = ", ".join(f"{row.file}:{row.row}" for row in faulty[:5])
    rows = "1 row" if len(faulty) == 1 else f"{len(faulty)} rows"
    message = f"{rows} {fault} (first: {first})" + (f"; {advice}" if advice else "")
    return {"passed": False, "value": len(faulty), "message": message}


def _stops(encoded: Encoded, stops: set[int]) -> bool:
    following = [*encoded.labels[1:], MASKED]
    runs_end = [
        label for label, after in zip(encoded.labels, following, strict=True) if label != MASKED and after == MASKED
    ]
    return bool(runs_end) and all(label in stops for label in runs_end)


def _labels_stand_on_tokens(encoded: Encoded) -> bool:
    pairs = zip(encoded.input_ids, encoded.labels, strict=True)
    return all(label in (MASKED, token) for token, label in pairs)


def _not_exactly_the_answers(tokenizer: Any, rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose trained tokens decode to a different text than their tokenized targets."""
    return [
        row
        for row in rows
        if _read(tokenizer, row.trained) != _read(tokenizer, _tokenize(tokenizer, row.rendered.targets))
    ]


def _tokenize(tokenizer: Any, texts: list[str]) -> list[int]:
    return [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _read(tokenizer: Any, ids: list[int]) -> str:
    # SentencePiece tokenizers add a space before a separate text. White space between turns does not count.
    return "".join(tokenizer.decode(ids, clean_up_tokenization_spaces=False).split())


def _count_rows(rows: Sequence[Row]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[f"{row.source}/{row.split}"] = counts.get(f"{row.source}/{row.split}", 0) + 1
    return counts


def _example(tokenizer: Any, rows: Sequence[Row]) -> dict[str, str]:
    """Return a row of median length as text, and with its trained parts between ⟦ and ⟧."""
    row = sorted(rows, key=lambda row: (row.tokens, row.id))[len(rows) // 2]
    marked, inside = "", False
    chunk: list[int] = []
    for token, label in zip(row.encoded.input_ids, row.encoded.labels, strict=True):
        if (label != MASKED) != inside:
            marked += _bracket(tokenizer, chunk, inside)
            inside, chunk = not inside, []
        chunk.append(token)
    return {"text": row.rendered.text, "marked": marked + _bracket(tokenizer, chunk, inside)}


def _bracket(tokenizer: Any, ids: list[int], trained: bool) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return f"⟦{text}⟧" if trained else text
