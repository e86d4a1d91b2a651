"""Rows of `cpt`, and the replay that an `sft` may mix in: raw texts, each with its end token, are concatenated and cut
into blocks of equal length.

Every token is trained and there is no padding. A block may contain the end of one text and the beginning of the next,
as in pre-training.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.settings.experiment import ExperimentData, ExperimentSettings
from ft_pipeline.settings.project import DataSettings
from ft_pipeline.training.objectives.rows import PreparedRows
from ft_pipeline.training.tokens.chat_tokens import MASKED, Encoded, Rendered
from ft_pipeline.training.tokens.held_out import keep_from_training
from ft_pipeline.training.tokens.sample import weigh
from ft_pipeline.training.tokens.token_audit import Row, account, check


def prepare_rows(job: Job, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> PreparedRows:
    """Return the blocks of all texts. UserError if a split has no text."""
    blocks, texts, left_out = text_blocks(job, tokenizer, limits["max_length"])
    checks = block_checks(tokenizer, blocks, texts)
    return PreparedRows(blocks, account(tokenizer, blocks, checks, **limits), left_out)


def text_blocks(job: Job, tokenizer: Any, length: int) -> tuple[list[Row], int, list[dict[str, Any]]]:
    """Return (blocks of at most `length` tokens, the number of texts in them, texts left out) from the inputs text and
    conversations.

    UserError if a split has no text.
    """
    texts, kept, left_out = _read(job)
    blocks: list[Row] = []
    for split in ("train", "validation"):
        rows = [row for row in kept if row["split"] == split]
        if not rows:
            raise UserError(
                f"No {split} texts: {texts} in data/raw/text, {len(left_out)} of them near a held-out row. Add "
                "texts, or change the shares in project.yaml."
            )
        blocks += pack(tokenizer, rows, length, split)
    job.report.progress(len(blocks), len(blocks))
    return blocks, len(kept), left_out


def replay_blocks(
    job: Job, tokenizer: Any, length: int, mix: ExperimentData, seed: int
) -> tuple[list[Row], int, list[dict[str, Any]]]:
    """Return (training blocks of the texts times their weight, the number of texts in them, texts left out), like
    text_blocks.

    All texts are in the train split: the held-out loss of an sft is that of its answers. UserError if there is no text.
    """
    count, kept, left_out = _read(job)
    weight = mix.weights.replay
    named = [{**row, "id": f"{row['file']}:{row['row']}"} for row in kept]
    texts = weigh(weigh(named, mix.share, seed), weight, seed)
    if not texts:
        raise UserError(
            f"data.weights.replay is {weight:g}, but there is nothing to replay: {count} texts in data/raw/text, "
            f"{len(left_out)} of them near a held-out row. Add texts, or remove the weight."
        )
    return pack(tokenizer, texts, length, "train", "replay"), len(texts), left_out


def _read(job: Job) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    columns = ["file", "row", "text"]
    texts = pq.read_table(job.inputs["text"] / "rows.parquet", columns=columns).to_pylist()
    kept, left_out = keep_from_training(
        job.inputs["conversations"], texts, DataSettings.model_validate(job.config["data"])
    )
    return len(texts), kept, left_out


def pack(tokenizer: Any, texts: Sequence[dict[str, Any]], length: int, split: str, source: str = "text") -> list[Row]:
    """Return blocks of at most `length` tokens, each with the file and row of the text in which it begins.

    A block begins with the last token of the previous block, so that every token except the very first is predicted,
    and trained, exactly once.
    """
    ids: list[int] = []
    begins: list[int] = []
    for row in texts:
        begins.append(len(ids))
        ids += _with_end(tokenizer, row["text"])
    blocks = []
    for number, begin in enumerate(range(0, len(ids) - 1, length - 1)):
        part = ids[begin : begin + length]
        origin = texts[bisect_right(begins, begin) - 1]
        text = tokenizer.decode(part, clean_up_tokenization_spaces=False)
        rendered = Rendered(text, ((0, len(text)),), split_by_turn=False)
        encoded = Encoded(part, [MASKED, *part[1:]])
        blocks.append(
            Row(f"{source}:{split}:{number}", source, split, origin["file"], origin["row"], rendered, encoded)
        )
    return blocks


def _with_end(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text as in pre-training: after BOS if the tokenizer adds it, before EOS."""
    ids = tokenizer(text)["input_ids"]
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("The tokenizer has no end token to separate texts. Set eos_token in its tokenizer_config.json.")
    return ids if ids and ids[-1] == end else [*ids, end]


def block_checks(tokenizer: Any, blocks: Sequence[Row], texts: int) -> dict[str, Any]:
    """Return the checks of token_audit.answer_checks for raw text, with the same names."""
    bos, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ends = sum(label == end for block in blocks for label in block.trained)
    twice = [block for block in blocks if bos is not None and bos != end and _twice(block.encoded.input_ids, bos)]
    unequal = [block for block in blocks if block.encoded.labels[1:] != block.encoded.input_ids[1:]]
    missing = blocks[:1] if ends < texts else []
    stops = check(missing, "the end token of every text is trained", "without the end token of a text")
    return {
        "every_turn_rendered": check([], "raw text has no turns; all of it is included", ""),
        "every_row_trains": check(
            [block for block in blocks if not block.trained],
            "every block has at least one trained token",
            "without a trained token",
        ),
        "stop_token_trained": stops,
        "single_bos": check(twice, "no text begins with two BOS tokens", "with two BOS tokens in a row"),
        "padding_never_trained": check(
            unequal, "blocks contain no padding", "with a label that differs from its token"
        ),
        "prompts_masked": check(unequal, "raw text has no prompt; every token is trained", "with a masked token"),
    }


def _twice(ids: list[int], token: int) -> bool:
    return any(pair == (token, token) for pair in itertools.pairwise(ids))
