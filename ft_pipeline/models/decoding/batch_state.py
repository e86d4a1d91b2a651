"""The decoding state of a batch: the key-value cache, the padding mask and the position of every token."""

from typing import Any

import torch
from torch import Tensor

from ft_pipeline.models.decoding.kv_cache import batch_cache, suffix_cache
from ft_pipeline.models.decoding.prefix_attention import can_share_prefix, shared_prefix_attention
from ft_pipeline.models.model_structure import causal_lm


class BatchState:
    """Decoding state of a batch whose rows begin with a common prefix, or with none. Positions do not count padding.

    The prefix is kept once for all rows if the model allows it. Otherwise each row gets a copy.
    """

    def __init__(self, model: Any, prefix: Any, mask: Tensor, new_tokens: int = 0) -> None:
        """prefix: its cache, for one row, or None. mask [rows, tokens]: 0 for padding, else 1; the prefix comes first.
        new_tokens: how many tokens may follow those of the mask."""
        self._model = model
        rows, length = mask.shape
        self._prefix_length = self._length = 0 if prefix is None else prefix.get_seq_length()
        self._mask = torch.cat([mask, mask.new_ones(rows, new_tokens)], dim=1)
        self._padded = not bool(mask.all())
        self._positions = (self._mask.cumsum(-1) - 1).masked_fill(self._mask == 0, 0)
        self.shares_prefix = prefix is not None and can_share_prefix(model, prefix)
        """Whether the prefix is kept once for all rows."""
        capacity = length + new_tokens
        if self.shares_prefix:
            self._cache = suffix_cache(prefix, capacity - self._prefix_length)
        else:
            self._cache = batch_cache(causal_lm(model), prefix, rows, capacity)

    def forward(self, ids: Tensor, logits_to_keep: int = 1) -> Tensor:
        """Process the next tokens [rows, tokens] and return the last `logits_to_keep` logits [rows, logits,
        vocabulary]."""
        begin, self._length = self._length, self._length + ids.shape[1]
        inputs = {
            "input_ids": ids,
            "position_ids": self._positions[:, begin : self._length],
            "cache": self._cache,
            "use_cache": True,
            "logits_to_keep": logits_to_keep,
        }
        if self.shares_prefix:
            mask = self._suffix_mask(ids.shape[1])
            with shared_prefix_attention(self._model):
                output = self._model(**inputs, attention_mask=mask, shared_prefix=self._cache)
        else:
            output = self._model(**inputs, attention_mask=self._mask[:, : self._length] if self._padded else None)
        logits: Tensor = output.logits
        return logits

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all other rows. `rows` must ascend."""
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]

    def repeat_rows(self, times: int) -> None:
        """Repeat each row, which then continues in several ways. The copies of a row follow each other."""
        self._cache.batch_repeat_interleave(times)
        self._mask, self._positions = (rows.repeat_interleave(times, dim=0) for rows in (self._mask, self._positions))

    def _suffix_mask(self, token_count: int) -> Tensor | None:
        """Return an additive mask [rows, 1, tokens, suffix tokens] for the last `token_count` tokens.

        None if each of them attends to the whole suffix.
        """
        if token_count == 1 and not self._padded:
            return None
        visible = self._mask[:, None, None, self._prefix_length : self._length].bool()
        length = visible.shape[-1]
        causal = torch.ones(token_count, length, dtype=torch.bool, device=visible.device).tril(length - token_count)
        diagonal = causal.triu(length - token_count)  # for padding as well: a softmax needs at least one token
        hidden = ~(visible & causal | diagonal)
        return torch.zeros_like(hidden, dtype=self._model.dtype).masked_fill_(hidden, float("-inf"))
