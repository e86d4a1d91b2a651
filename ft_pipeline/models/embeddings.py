"""Embed texts with a small encoder, in a separate process: its caller, which may be Dagster's, never loads torch."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ft_pipeline.errors import UserError
from ft_pipeline.models.base_model import fetch_model, read_pooling
from ft_pipeline.models.file_scan import refuse_hostile_files
from ft_pipeline.tables.reading.process_pool import processes
from ft_pipeline.tables.semantic import Embed

BATCH_TEXTS = 32
"""Texts per forward pass. Texts of similar lengths are in one batch."""
MAX_TOKENS = 512
"""Longer texts are cut."""
POOLINGS = ("mean_tokens", "cls_token", "lasttoken")
"""How token vectors become one vector, by the names of sentence-transformers."""


@contextmanager
def open_embedder(model: str, revision: str | None) -> Iterator[tuple[Embed, str]]:
    """Yield a function that embeds texts (float32 of shape (texts, width), each of length 1), and the model's source.

    Raises UserError if the model cannot be fetched, could run code, or needs another pooling than those of POOLINGS.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ft-embedder-") as folder,
        processes(partial(_answer, model=model, revision=revision, folder=Path(folder)), 1) as ask,
    ):
        source = ask(None)
        yield ask, source


def _answer(texts: list[str] | None, model: str, revision: str | None, folder: Path) -> Any:
    """Return the vectors of the texts; for None, the source of the model."""
    encoder = _load(model, revision, folder)
    return encoder.source if texts is None else encoder.embed(texts)


@cache
def _load(model: str, revision: str | None, folder: Path) -> "_Encoder":
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    source, _ = fetch_model(model, revision, folder, _Silent())
    refuse_hostile_files(folder, model)
    pooling = read_pooling(model, revision)
    if pooling not in POOLINGS:
        raise UserError(f"model {model!r} needs the pooling {pooling!r}. Choose a model with {', '.join(POOLINGS)}.")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    # In 32 bit: close similarities must not depend on the compute type of the machine.
    encoder = AutoModel.from_pretrained(
        folder, dtype="float32", local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    positions = getattr(encoder.config, "max_position_embeddings", MAX_TOKENS)
    return _Encoder(source, tokenizer, encoder.eval(), pooling, min(MAX_TOKENS, tokenizer.model_max_length, positions))


class _Silent:
    """Reports nothing: the model is small."""

    def progress(self, step: int, total: int, **values: float) -> None:
        pass

    def log(self, message: str) -> None:
        pass


@dataclass(frozen=True)
class _Encoder:
    source: str
    tokenizer: Any
    model: Any
    pooling: str
    max_tokens: int

    def embed(self, texts: list[str]) -> np.ndarray:
        """Return float32 vectors of length 1, shape (texts, width)."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        vectors = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        for begin in range(0, len(order), BATCH_TEXTS):
            batch = order[begin : begin + BATCH_TEXTS]
            vectors[batch] = self._embed_batch([texts[at] for at in batch])
        return vectors

    def _embed_batch(self, texts: list[str]) -> np.ndarray:
        import torch

        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        with torch.inference_mode():
            hidden = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"]
            if self.pooling == "cls_token":
                pooled = hidden[:, 0]
            elif self.pooling == "lasttoken":
                pooled = hidden[torch.arange(len(texts)), mask.sum(1).clamp(min=1) - 1]
            else:
                weights = mask.unsqueeze(-1).float()
                pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
            return torch.nn.functional.normalize(pooled, dim=-1).numpy()
