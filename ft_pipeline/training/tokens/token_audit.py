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
    dropped: DroppedTurns | None = None
    """What the chat template left out. None for all texts of a conversation but the first, and for other rows."""

    @property
    def tokens(self) -> int:
        return len(self.encoded.input_ids)

    @property
    def trained(self) -> list[int]:
        return [label for label in self.encoded.labels if label != MASKED]


def answer_checks(tokenizer: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the checks of rows whose assistant turns are trained."""
    return {"every_turn_rendered": _rendered_check(rows), **_content_checks(tokenizer, rows)}


def combine_checks(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Combine the checks of two kinds of rows that train together, by name. A check passes if both pass."""
    return {
        name: {
            "passed": entry["passed"] and second[name]["passed"],
            "value": entry["value"] + second[name]["value"],
            "message": f"{entry['message']}; {second[name]['message']}",
        }
        for name, entry in first.items()
    }


def build_report(
    tokenizer: Any, rows: Sequence[Row], checks: dict[str, Any], *, max_length: int, vocabulary: int
) -> dict[str, Any]:
    """Return the checks and counts of all tokens of `rows`. `checks` are those of their kind; the checks that all kinds
    of rows have are added. `max_length` is in tokens, `vocabulary` is the number of rows of the model's embedding.

    Each check is {passed, value, message}; `value` is the number of faulty rows. A failed check stops the training.
    """
    over = [row for row in rows if row.tokens > max_length]
    lengths = np.array([row.tokens for row in rows])
    tokens, trained = int(lengths.sum()), sum(len(row.trained) for row in rows)
    counts, edges = np.histogram(lengths, bins=min(24, max(1, int(lengths.max() - lengths.min()))))
    return {
        "checks": {
            "no_over_length": _length_check(over, max_length),
            **checks,
            "ids_in_vocabulary": _vocabulary_check(rows, vocabulary),
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
    return [f"{name}: {entry['message']}" for name, entry in report["checks"].items() if not entry["passed"]]


def _length_check(over: Sequence[Row], max_length: int) -> dict[str, Any]:
    return build_check(
        over,
        f"no row is longer than the max_length of {max_length} tokens",
        f"longer than the max_length of {max_length} tokens",
        "nothing is truncated: raise training.max_length, or shorten or remove the rows",
    )


def _vocabulary_check(rows: Sequence[Row], vocabulary: int) -> dict[str, Any]:
    return build_check(
        [row for row in rows if max(row.encoded.input_ids, default=0) >= vocabulary],
        f"every token id is below the model's vocabulary of {vocabulary}",
        f"with a token id outside the model's vocabulary of {vocabulary}",
        "choose a base_model that has an embedding for every token of its tokenizer",
    )


def _content_checks(tokenizer: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the checks of tokens and labels."""
    stops = set(stop_token_ids(tokenizer))
    bos = tokenizer.bos_token_id
    return {
        "every_row_trains": build_check(
            [row for row in rows if not row.trained],
            "every row has at least one trained token",
            "without a trained token",
        ),
        "stop_token_trained": build_check(
            [row for row in rows if not _ends_every_turn(row.encoded, stops)],
            "every assistant turn ends with a trained stop token",
            "with an assistant turn whose stop token is not trained",
            "the model would never learn to stop: use a chat template that writes a control token after each answer",
        ),
        "single_bos": build_check(
            [row for row in rows if bos is not None and row.encoded.input_ids[:2] == [bos, bos]],
            "no row begins with two BOS tokens",
            "beginning with two BOS tokens",
        ),
        "padding_never_trained": build_check(
            [row for row in rows if not _labels_match_tokens(row.encoded)],
            "every label equals the token at its position; padding is added after the labels and is masked by position",
            "with a label that differs from the token at its position",
        ),
        "prompts_masked": build_check(
            _rows_with_other_targets(tokenizer, rows),
            "the trained tokens of every row decode to exactly its trained turns",
            "whose trained tokens are not exactly the trained turns",
        ),
    }


def _rendered_check(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the check that the chat template leaves out no turn."""
    faulty = [row for row in rows if row.dropped and row.dropped.turns]
    turns = ", ".join(f"{row.file}:{row.row} {row.dropped.turns[0]}" for row in faulty[:3] if row.dropped)
    return build_check(
        faulty,
        "every rendered conversation contains the text of all its turns",
        f"with a turn that the chat template omits ({turns})",
        "choose a base_model whose template renders such turns, or remove them from the data",
    )


def _count_reasoning(rows: Sequence[Row]) -> dict[str, Any]:
    """Count turns with reasoning. Answers do not need it, so a template without it fails no check, but is reported."""
    reasoning = [row for row in rows if row.dropped and row.dropped.reasoning_turns]
    without = [row for row in reasoning if row.dropped and row.dropped.reasoning_left_out]
    turns = sum(row.dropped.reasoning_turns for row in reasoning if row.dropped)
    left_out = sum(len(row.dropped.reasoning_left_out) for row in without if row.dropped)
    message = ""
    if turns:
        message = f"{turns - left_out} of {turns} turns with reasoning are trained with it"
    if left_out:
        first_rows = ", ".join(f"{row.file}:{row.row}" for row in without[:5])
        message += f"; the chat template omits the reasoning of the other {left_out} (first: {first_rows})"
    return {"turns": turns, "left_out": left_out, "message": message}


def build_check(faulty: Sequence[Row], passed_message: str, fault: str, advice: str = "") -> dict[str, Any]:
    """Return a check of the audit. Its message is `passed_message`, or the number of faulty rows, the first of them and
    the advice."""
    if not faulty:
        return {"passed": True, "value": 0, "message": passed_message}
    first = ", ".join(f"{row.file}:{row.row}" for row in faulty[:5])
    rows = "1 row" if len(faulty) == 1 else f"{len(faulty)} rows"
    message = f"{rows} {fault} (first: {first})" + (f"; {advice}" if advice else "")
    return {"passed": False, "value": len(faulty), "message": message}


def _ends_every_turn(encoded: Encoded, stops: set[int]) -> bool:
    """Whether each run of trained tokens, which is an assistant turn, ends with a stop token."""
    next_labels = [*encoded.labels[1:], MASKED]
    last_labels = [
        label
        for label, next_label in zip(encoded.labels, next_labels, strict=True)
        if label != MASKED and next_label == MASKED
    ]
    return bool(last_labels) and all(label in stops for label in last_labels)


def _labels_match_tokens(encoded: Encoded) -> bool:
    pairs = zip(encoded.input_ids, encoded.labels, strict=True)
    return all(label in (MASKED, token) for token, label in pairs)


def _rows_with_other_targets(tokenizer: Any, rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose trained tokens decode to a different text than their tokenized targets."""
    return [
        row
        for row in rows
        if _decode_without_spaces(tokenizer, row.trained)
        != _decode_without_spaces(tokenizer, _tokenize(tokenizer, row.rendered.targets))
    ]


def _tokenize(tokenizer: Any, texts: list[str]) -> list[int]:
    return [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _decode_without_spaces(tokenizer: Any, ids: list[int]) -> str:
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
    marked, is_trained = "", False
    part: list[int] = []
    for token, label in zip(row.encoded.input_ids, row.encoded.labels, strict=True):
        if (label != MASKED) != is_trained:
            marked += _decode_part(tokenizer, part, is_trained)
            is_trained, part = not is_trained, []
        part.append(token)
    return {"text": row.rendered.text, "marked": marked + _decode_part(tokenizer, part, is_trained)}


def _decode_part(tokenizer: Any, ids: list[int], trained: bool) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return f"⟦{text}⟧" if trained else text
