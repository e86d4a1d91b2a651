"""The merged model in 32 bit, one sequence at a time: what its GGUF files are measured against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.load import load_model
from ft_pipeline.models.model_structure import context_window
from ft_pipeline.training.trainer.loss import compute_logits, hidden_states

Floats = NDArray[np.float32]
TokenPair = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a context and of the target after it."""


@dataclass(frozen=True)
class GreedyAnswer:
    """The merged model's own greedy answer to a prompt."""

    prompt: list[int]
    answer: list[int]
    """With the stop token that ends it."""
    gaps: list[float]
    """By token of the answer, by how many nats the best candidate leads the second one."""

    def settled(self, margin: float) -> int:
        """Return the number of tokens before the first one whose two best candidates differ by less than `margin`."""
        return next((index for index, gap in enumerate(self.gaps) if gap < margin), len(self.answer))


def token_pair(context: Sequence[int], target: Sequence[int]) -> TokenPair:
    """Return a key for a context and a target."""
    return tuple(context), tuple(target)


class MergedReference:
    """The merged model, loaded in 32 bit on the CPU."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self._model = load_model(folder, "cpu", dtype=torch.float32)
        self.stop_ids = stop_token_ids(tokenizer, self._model)
        """The tokens that end an answer, as where the merged model was scored."""
        self.window = context_window(self._model.config)
        """How many tokens the model can read; None: no limit."""
        self._states: dict[TokenPair, torch.Tensor] = {}

    @torch.inference_mode()
    def log_probabilities(self, context: list[int], target: list[int]) -> Floats:
        """Return the log probabilities that predict each token of the target, shape (target tokens, vocabulary).

        The hidden states are kept: the next GGUF file is measured on the same rows, and logits are too large to keep.
        """
        key = token_pair(context, target)
        if key not in self._states:
            self._states[key] = self._hidden(context + target[:-1])[len(context) - 1 :]
        return log_softmax(compute_logits(self._model, self._states[key]).numpy())

    @torch.inference_mode()
    def answer(self, prompt: list[int], draft: Callable[[list[int]], list[int]], max_new_tokens: int) -> GreedyAnswer:
        """Return the greedy answer to a prompt.

        draft: guesses how the answer continues after its first tokens. Those tokens that the model writes itself are
        taken over, so that a good guess saves one evaluation per token. A bad one changes nothing.
        """
        answer, gaps = list[int](), list[float]()
        while len(answer) < max_new_tokens and not (answer and answer[-1] in self.stop_ids):
            guess = draft(answer)
            logits = compute_logits(self._model, self._hidden(prompt + answer + guess)[len(prompt) + len(answer) - 1 :])
            best = logits.topk(2)
            for index, (values, ids) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
                answer.append(ids[0])
                gaps.append(values[0] - values[1])
                if index >= len(guess) or guess[index] != ids[0] or ids[0] in self.stop_ids:
                    break
        return GreedyAnswer(prompt, answer[:max_new_tokens], gaps[:max_new_tokens])

    def _hidden(self, token_ids: list[int]) -> torch.Tensor:
        """Return the last hidden states of one sequence, shape (tokens, width of the model)."""
        ids = torch.tensor([token_ids])
        return hidden_states(self._model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0]


def log_softmax(logits: Floats) -> Floats:
    """Return log probabilities of logits, shape (tokens, vocabulary)."""
    return torch.from_numpy(logits).log_softmax(dim=1).numpy()


def kl_divergence(first: Floats, second: Floats) -> float:
    """Return KL(first || second) of log probabilities, summed over the tokens, in nats.

    llama.cpp pads some vocabularies. Both are cut to the shorter one.
    """
    width = min(first.shape[1], second.shape[1])
    p, q = torch.from_numpy(first[:, :width]), torch.from_numpy(second[:, :width])
    return float((p.exp() * (p - q)).sum(dtype=torch.float64))
