"""A batch that a model reads step by step: its cache, its padding, and the positions of its tokens."""

from typing import Any

import torch
from torch import Tensor

from ft_pipeline.models.kv_cache import rest_cache, rows_cache
from ft_pipeline.models.parts import causal_lm
from ft_pipeline.models.prefix_attention import beside_prefix, can_share


class Reading:
    """Rows of a batch, which begin with a prefix or not. Positions do not count padding, as those of `generate` do not.

    A prefix is read once for all rows where the model can do so, else each row begins with a copy of it.
    """

    def __init__(self, model: Any, prefix: Any, mask: Tensor, more: int = 0) -> None:
        """prefix: its cache for one row, or None. mask [rows, tokens]: 0 at padding, else 1, the prefix's tokens first.
        more: how many tokens may follow those."""
        self._model = model
        rows, length = mask.shape
        self._begin = self._done = 0 if prefix is None else prefix.get_seq_length()
        self._seen = torch.cat([mask, mask.new_ones(rows, more)], dim=1)
        self._padded = not bool(mask.all())
        self._positions = (self._seen.cumsum(-1) - 1).masked_fill(self._seen == 0, 0)
        self._shared = prefix is not None and can_share(model, prefix)
        room = length + more
        self._cache = (
            rest_cache(prefix, room - self._begin) if self._shared else rows_cache(causal_lm(model), prefix, rows, room)
        )

    def read(self, ids: Tensor, keep: int = 1) -> Tensor:
        """Read the next tokens [rows, tokens]; logits behind the last `keep` of them [rows, keep, vocabulary]."""
        begin, self._done = self._done, self._done + ids.shape[1]
        inputs = {
            "input_ids": ids,
            "position_ids": self._positions[:, begin : self._done],
            "cache": self._cache,
            "use_cache": True,
            "logits_to_keep": keep,
        }
        if self._shared:
            with beside_prefix(self._model):
                mask = self._own_mask(ids.shape[1])
                output = self._model(**inputs, attention_mask=mask, shared_prefix=self._cache)
        else:
            output = self._model(**inputs, attention_mask=self._seen[:, : self._done] if self._padded else None)
        logits: Tensor = output.logits
        return logits

    def keep(self, rows: Tensor) -> None:
        """Let all rows go but these, which must ascend."""
        self._cache.batch_select_indices(rows)
        self._seen, self._positions = self._seen[rows], self._positions[rows]

    def _own_mask(self, tokens: int) -> Tensor | None:
        """What the last `tokens` of each row see of the row's own: 0, else minus infinity."""
        if tokens == 1 and not self._padded:
            return None
        seen = self._seen[:, None, None, self._begin : self._done].bool()
        own = seen.shape[-1]
        before = torch.ones(tokens, own, dtype=torch.bool, device=seen.device).tril(own - tokens)
        itself = torch.zeros_like(before)
        itself.diagonal(own - tokens).fill_(True)  # padding too, or its softmax would be of nothing
        hidden = ~(seen & before | itself)
        return torch.zeros_like(hidden, dtype=self._model.dtype).masked_fill_(hidden, float("-inf"))
