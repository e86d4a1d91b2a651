"""Rows of `cpt`, and the replay that an `sft` may mix in: raw texts, each with its end token, are concatenated and cut
into blocks of equal length.

Every token is trained, and there is no padding. A block may contain the end of one text and the beginning of the next,
as in pretraining.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.settings.experiment import ExperimentData, ExperimentSettings
from ft_pipeline.settings.project import DataSettings
from ft_pipeline.training.objectives.rows import PreparedRows
from ft_pipeline.training.tokens.chat_tokens import MASKED, Encoded, Rendered
from ft_pipeline.training.tokens.held_out import split_or_leave_out
from ft_pipeline.training.tokens.sample import apply_weight
from ft_pipeline.training.tokens.token_audit import Row, build_check


@dataclass(frozen=True)
class TextBlocks:
    """The blocks of raw texts."""

    blocks: list[Row]
    texts: int
    """Number of texts in the blocks."""
    left_out: list[dict[str, Any]]
    """Texts near a held-out row: {file, row, code, copy_of}."""


def prepare_rows(job: Job, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> PreparedRows:
    """Return the blocks of all texts. UserError if a split has no text."""
    packed = text_blocks(job, tokenizer, limits["max_length"])
    checks = block_checks(tokenizer, packed.blocks, packed.texts)
    return PreparedRows(packed.blocks, checks, packed.left_out)


def text_blocks(job: Job, tokenizer: Any, length: int) -> TextBlocks:
    """Return the texts as blocks of at most `length` tokens. Inputs: text, conversations. UserError if a split has no
    text."""
    texts, left_out = _read_texts(job)
    blocks: list[Row] = []
    for split in ("train", "validation"):
        rows = [row for row in texts if row["split"] == split]
        if not rows:
            raise UserError(
                f"No {split} texts: {len(texts) + len(left_out)} in data/raw/text, {len(left_out)} of them near a "
                "held-out row. Add texts, or change the shares in project.yaml."
            )
        blocks += pack_blocks(tokenizer, rows, length, split)
    job.report.progress(len(blocks), len(blocks))
    return TextBlocks(blocks, len(texts), left_out)


def replay_blocks(job: Job, tokenizer: Any, length: int, data: ExperimentData, seed: int) -> TextBlocks:
    """Return the texts, times their weight, as training blocks of at most `length` tokens. Inputs as in text_blocks.

    All texts are in the train split: the held-out loss of an sft is that of its answers. UserError if there is no text.
    """
    kept, left_out = _read_texts(job)
    weight = data.weights.replay
    identified = [{**row, "id": f"{row['file']}:{row['row']}"} for row in kept]
    texts = apply_weight(apply_weight(identified, data.share, seed), weight, seed)
    if not texts:
        raise UserError(
            f"data.weights.replay is {weight:g}, but there is nothing to replay: {len(kept) + len(left_out)} texts in "
            f"data/raw/text, {len(left_out)} of them near a held-out row. Add texts, or remove the weight."
        )
    return TextBlocks(pack_blocks(tokenizer, texts, length, "train", "replay"), len(texts), left_out)


def _read_texts(job: Job) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (texts with their split, texts left out because they are near a held-out row)."""
    columns = ["file", "row", "text"]
    texts = pq.read_table(job.inputs["text"] / "rows.parquet", columns=columns).to_pylist()
    return split_or_leave_out(job.inputs["conversations"], texts, DataSettings.model_validate(job.config["data"]))


def pack_blocks(
    tokenizer: Any, texts: Sequence[dict[str, Any]], length: int, split: str, source: str = "text"
) -> list[Row]:
    """Return blocks of at most `length` tokens, each with the file and row of the text in which it begins.

    A block begins with the last token of the previous block, so that every token except the very first is trained
    exactly once.
    """
    ids: list[int] = []
    text_begins: list[int] = []
    for row in texts:
        text_begins.append(len(ids))
        ids += _tokenize_with_end(tokenizer, row["text"])
    blocks = []
    for number, begin in enumerate(range(0, len(ids) - 1, length - 1)):
        block_ids = ids[begin : begin + length]
        first_text = texts[bisect_right(text_begins, begin) - 1]
        text = tokenizer.decode(block_ids, clean_up_tokenization_spaces=False)
        rendered = Rendered(text, ((0, len(text)),), split_by_turn=False)
        encoded = Encoded(block_ids, [MASKED, *block_ids[1:]])
        blocks.append(
            Row(f"{source}:{split}:{number}", source, split, first_text["file"], first_text["row"], rendered, encoded)
        )
    return blocks


def _tokenize_with_end(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text as in pretraining: after BOS if the tokenizer adds it, before EOS."""
    ids = tokenizer(text)["input_ids"]
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("The tokenizer has no end token to separate texts. Set eos_token in its tokenizer_config.json.")
    return ids if ids and ids[-1] == end else [*ids, end]


def block_checks(tokenizer: Any, blocks: Sequence[Row], texts: int) -> dict[str, Any]:
    """Return the checks of token_audit.answer_checks for blocks of raw text, with the same names. texts: the number of
    texts in the blocks, each of which must have its end token."""
    bos, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    trained_ends = sum(label == end for block in blocks for label in block.trained)
    doubled = [
        block for block in blocks if bos is not None and bos != end and _has_double(block.encoded.input_ids, bos)
    ]
    mislabeled = [block for block in blocks if block.encoded.labels[1:] != block.encoded.input_ids[1:]]
    without_end = blocks[:1] if trained_ends < texts else []
    end_check = build_check(without_end, "the end token of every text is trained", "without the end token of a text")
    return {
        "every_turn_rendered": build_check([], "raw text has no turns; all of it is included", ""),
        "every_row_trains": build_check(
            [block for block in blocks if not block.trained],
            "every block has at least one trained token",
            "without a trained token",
        ),
        "stop_token_trained": end_check,
        "single_bos": build_check(doubled, "no text begins with two BOS tokens", "with two BOS tokens in a row"),
        "padding_never_trained": build_check(
            mislabeled, "blocks contain no padding", "with a label that differs from its token"
        ),
        "prompts_masked": build_check(
            mislabeled, "raw text has no prompt; every token is trained", "with a masked token"
        ),
    }


def _has_double(ids: list[int], token: int) -> bool:
    return any(pair == (token, token) for pair in itertools.pairwise(ids))
