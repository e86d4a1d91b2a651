"""A GGUF file that llama.cpp evaluates: logits, greedy answers, and the tokens that its own tokenizer makes."""

from collections.abc import Collection, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.library import last_message, load_library, thread_count

_BATCH_TOKENS = 512
"""Tokens per llama_decode. The logits of a vocabulary of 150,000 then take 300 MB."""
Logits = NDArray[np.float32]


class EvaluatedModel:
    """A loaded GGUF file with one sequence in its cache. Use it as a context manager, which frees its memory.

    Token ids come from the caller. Sequences are independent: only a prefix of equal tokens is kept from one to the
    next, and with `exact` nothing is.
    """

    def __init__(self, path: Path, longest: int, *, exact: bool = False) -> None:
        """longest: tokens of the longest sequence. exact: keep keys and values in 32 bit, without flash attention, and
        compute each sequence from its start; otherwise as llama-server does by default.

        Raises UserError if llama.cpp cannot load the file.
        """
        self._ffi, self._lib = load_library()
        self._exact = exact
        parameters = self._lib.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), parameters)
        if self._model == self._ffi.NULL:
            raise UserError(f"llama.cpp cannot load {path.name}: {last_message()}. Export it again.")
        self._context = self._lib.llama_init_from_model(self._model, self._context_parameters(longest, exact))
        if self._context == self._ffi.NULL:
            self._lib.llama_model_free(self._model)
            raise UserError(f"llama.cpp cannot run {path.name}: {last_message()}. Free memory, and run again.")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self._memory = self._lib.llama_get_memory(self._context)
        self._batch = self._lib.llama_batch_init(_BATCH_TOKENS, 0, 1)
        self._cached: list[int] = []
        self.vocabulary_size = int(self._lib.llama_vocab_n_tokens(self._vocab))

    def _context_parameters(self, longest: int, exact: bool) -> Any:
        parameters = self._lib.llama_context_default_params()
        parameters.n_ctx = longest
        parameters.n_batch = parameters.n_ubatch = _BATCH_TOKENS
        parameters.n_seq_max = 1
        parameters.n_threads = parameters.n_threads_batch = thread_count()
        parameters.no_perf = True
        if exact:
            parameters.type_k = parameters.type_v = self._lib.GGML_TYPE_F32
            parameters.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return parameters

    def __enter__(self) -> "EvaluatedModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def logits(self, token_ids: Sequence[int], first: int = 0) -> Logits:
        """Return the logits after each token from position `first` on, shape (tokens - first, vocabulary)."""
        return np.concatenate([part for part in self._evaluate(list(token_ids), first) if len(part)])

    def answer(self, token_ids: Sequence[int], stop_ids: Collection[int], max_new_tokens: int) -> list[int]:
        """Return the greedy answer to a prompt, with the stop token that ends it."""
        ids, answer = list(token_ids), list[int]()
        while len(answer) < max_new_tokens:
            token = int(self.logits(ids, len(ids) - 1)[0].argmax())
            answer.append(token)
            if token in stop_ids:
                break
            ids.append(token)
        return answer

    def tokenize_prompt(self, text: str) -> list[int]:
        """Return the tokens that llama-server makes of a rendered prompt.

        It adds a BOS token if the file says so, in place of one that the template wrote.
        """
        ffi, lib = self._ffi, self._lib
        if lib.llama_vocab_get_add_bos(self._vocab):
            bos = lib.llama_vocab_get_text(self._vocab, lib.llama_vocab_bos(self._vocab))
            text = text.removeprefix(ffi.string(bos).decode("utf-8")) if bos != ffi.NULL else text
        encoded = text.encode("utf-8", errors="surrogatepass")
        room = len(encoded) + 8
        tokens = ffi.new("llama_token[]", room)
        count = lib.llama_tokenize(self._vocab, encoded, len(encoded), tokens, room, True, True)
        if count < 0:
            raise UserError(f"llama.cpp cannot tokenize a prompt: {last_message()}. Export the model without GGUF.")
        return list(tokens[0:count])

    def _evaluate(self, token_ids: list[int], first: int) -> list[Logits]:
        """Evaluate the tokens that are not cached, and return the logits from position `first` on, in parts."""
        begin = self._keep_prefix(token_ids, first)
        self._cached = []  # nothing is known about the cache if llama_decode fails
        parts = []
        for position in range(begin, len(token_ids), _BATCH_TOKENS):
            tokens = token_ids[position : position + _BATCH_TOKENS]
            parts.append(self._decode(tokens, position, max(0, first - position)))
        self._cached = token_ids
        return parts

    def _keep_prefix(self, token_ids: list[int], first: int) -> int:
        """Remove from the cache what the sequence does not begin with. Return how many tokens are left."""
        pairs = zip(self._cached[:first], token_ids, strict=False)
        shared = 0 if self._exact else sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        # Models with a recurrent state cannot remove the end of a sequence.
        if shared and self._lib.llama_memory_seq_rm(self._memory, 0, shared, -1):
            return shared
        self._lib.llama_memory_clear(self._memory, True)
        return 0

    def _decode(self, tokens: Sequence[int], position: int, skip: int) -> Logits:
        """Evaluate a batch. Return the logits after each token but the first `skip`, shape (tokens, vocabulary)."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, position + index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = index >= skip or index == len(tokens) - 1
        if status := self._lib.llama_decode(self._context, batch):
            raise UserError(f"llama.cpp failed with code {status}: {last_message()}. Free memory, and run again.")
        wanted = max(0, len(tokens) - skip)
        result = np.empty((wanted, self.vocabulary_size), dtype=np.float32)
        for row in range(wanted):
            address = self._lib.llama_get_logits_ith(self._context, skip + row)
            result[row] = np.frombuffer(self._ffi.buffer(address, 4 * self.vocabulary_size), dtype=np.float32)
        return result
