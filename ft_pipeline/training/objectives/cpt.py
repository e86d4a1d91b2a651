"""Rows of `cpt`, and the replay that an `sft` may mix in: raw texts, each with its end token, are concatenated and cut
into blocks of equal length.

Every token is trained, and there is no padding. A block may contain the end of one text and the beginning of the next,
as in pretraining.
"""

import itertools
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.experiment import ExperimentData, ExperimentSettings
from ft_pipeline.tables.splits import TRAIN, VALIDATION
from ft_pipeline.training.objectives.rows import PreparedRows, RowSource, TableRows
from ft_pipeline.training.tokens.chat_tokens import MASKED, Encoded, Rendered
from ft_pipeline.training.tokens.held_out import LEFT_OUT, split_or_leave_out
from ft_pipeline.training.tokens.sample import apply_weight
from ft_pipeline.training.tokens.token_audit import Check, Row


def prepare_rows(job: Job, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> PreparedRows:
    """Return the blocks of all texts. Inputs: text, conversations. UserError if a split has no text."""
    texts, splits, left_out = _read_texts(job)
    checks = BlockChecks(tokenizer, len(texts) - len(left_out))
    sources = []
    for name, split in (("train", TRAIN), ("validation", VALIDATION)):
        rows = TableRows(texts, np.flatnonzero(splits == split))
        if not len(rows):
            raise UserError(
                f"No {name} texts: {len(texts)} in data/raw/text, {len(left_out)} of them near a "
                "held-out row. Add texts, or change the shares in project.yaml."
            )
        sources.append(pack_blocks(tokenizer, rows, limits["max_length"], name, checks))
    return PreparedRows(sources, checks.results, left_out)


def replay_blocks(job: Job, tokenizer: Any, length: int, data: ExperimentData, seed: int) -> PreparedRows:
    """Return the texts, times their weight, as training blocks of at most `length` tokens. Inputs as in prepare_rows.

    All texts are in the train split: the held-out loss of an sft is that of its answers. UserError if there is no text.
    """
    texts, splits, left_out = _read_texts(job)
    kept = np.flatnonzero(splits != LEFT_OUT)
    weight = data.weights.replay
    files, rows = (texts[name].take(pa.array(kept)).to_pylist() for name in ("file", "row"))
    ids = [f"{file}:{row}" for file, row in zip(files, rows, strict=True)]
    positions = apply_weight(ids, data.share, seed)
    positions = positions[apply_weight([ids[position] for position in positions], weight, seed)]
    if not len(positions):
        raise UserError(
            f"data.weights.replay is {weight:g}, but there is nothing to replay: {len(texts)} texts in "
            f"data/raw/text, {len(left_out)} of them near a held-out row. Add texts, or remove the weight."
        )
    checks = BlockChecks(tokenizer, len(positions))
    replayed = TableRows(texts, kept[positions])
    source = pack_blocks(tokenizer, replayed, length, "train", checks, "replay")
    return PreparedRows([source], checks.results, left_out)


def _read_texts(job: Job) -> tuple[pa.Table, np.ndarray, list[dict[str, Any]]]:
    """Return (texts, the split of each or LEFT_OUT, texts left out because they are near a held-out row)."""
    texts = pq.read_table(job.inputs["text"] / "rows.parquet", columns=["file", "row", "text"])
    shares = DataSettings.model_validate(job.config["data"])
    return texts, *split_or_leave_out(job.inputs["conversations"], texts, shares)


def pack_blocks(
    tokenizer: Any,
    texts: TableRows,
    length: int,
    split: str,
    checks: "BlockChecks",
    source: str = "text",
) -> RowSource:
    """Return blocks of at most `length` tokens, each with the file and row of the text in which it begins.

    A block begins with the last token of the previous block, so that every token except the very first is trained
    exactly once. In memory are the tokens of all texts, with 4 bytes each.
    """
    origins = TableRows(texts.table.select(["file", "row"]), texts.positions)
    ids, text_begins = array("i"), array("q")
    for row in texts:
        text_begins.append(len(ids))
        ids.extend(_tokenize_with_end(tokenizer, row["text"]))
    begins = range(0, len(ids) - 1, length - 1)

    def make(items: slice) -> list[Row]:
        numbers = range(len(begins))[items]
        return [_block(number, begins[number]) for number in numbers]

    def _block(number: int, begin: int) -> Row:
        block_ids = ids[begin : begin + length].tolist()
        first = bisect_right(text_begins, begin) - 1
        (origin,) = origins.read(first, first + 1)
        text = tokenizer.decode(block_ids, clean_up_tokenization_spaces=False)
        rendered = Rendered(text, ((0, len(text)),), split_by_turn=False)
        encoded = Encoded(block_ids, [MASKED, *block_ids[1:]])
        row_id = f"{source}:{split}:{number}"
        return Row(row_id, source, split, "text", origin["file"], origin["row"], rendered, encoded)

    return RowSource(len(begins), make, checks.add)


def _tokenize_with_end(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text as in pretraining: after BOS if the tokenizer adds it, before EOS."""
    ids = tokenizer(text)["input_ids"]
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("The tokenizer has no end token to separate texts. Set eos_token in its tokenizer_config.json.")
    return ids if ids and ids[-1] == end else [*ids, end]


class BlockChecks:
    """The checks of AnswerChecks for blocks of raw text, with the same names."""

    def __init__(self, tokenizer: Any, texts: int) -> None:
        """texts: the number of texts in the blocks, each of which must have its end token."""
        self._bos, self._end, self._texts = tokenizer.bos_token_id, tokenizer.eos_token_id, texts
        self._trained_ends = 0
        self._first: Row | None = None
        self._turns = Check("raw text has no turns; all of it is included", "")
        self._trains = Check("every block has at least one trained token", "without a trained token")
        self._bos_check = Check("no text begins with two BOS tokens", "with two BOS tokens in a row")
        self._padding = Check("blocks contain no padding", "with a label that differs from its token")
        self._prompts = Check("raw text has no prompt; every token is trained", "with a masked token")

    def add(self, rows: Sequence[Row]) -> None:
        """Check a batch of blocks."""
        for row in rows:
            self._first = self._first or row
            trained = row.trained
            self._trained_ends += trained.count(self._end)
            if not trained:
                self._trains.add(row)
            if self._bos is not None and self._bos != self._end and _has_double(row.encoded.input_ids, self._bos):
                self._bos_check.add(row)
            if row.encoded.labels[1:] != row.encoded.input_ids[1:]:
                self._padding.add(row)
                self._prompts.add(row)

    def results(self) -> dict[str, Any]:
        """Return the checks of all blocks, by name."""
        end_check = Check("the end token of every text is trained", "without the end token of a text")
        if self._trained_ends < self._texts and self._first:
            end_check.add(self._first)
        return {
            "every_turn_rendered": self._turns.result(),
            "every_row_trains": self._trains.result(),
            "stop_token_trained": end_check.result(),
            "single_bos": self._bos_check.result(),
            "padding_never_trained": self._padding.result(),
            "prompts_masked": self._prompts.result(),
        }


def _has_double(ids: list[int], token: int) -> bool:
    return any(pair == (token, token) for pair in itertools.pairwise(ids))
