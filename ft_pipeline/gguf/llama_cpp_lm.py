"""A GGUF file with lm-eval's model interface, evaluated by llama.cpp, with its KL divergence from the merged model."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from ft_pipeline.evaluation.scoring.likelihood import TargetScore
from ft_pipeline.evaluation.scoring.lm_eval_model import RecordingLM
from ft_pipeline.gguf.evaluated_model import EvaluatedModel
from ft_pipeline.gguf.merged_reference import (
    MergedReference,
    TokenPair,
    kl_divergence,
    log_softmax,
    token_pair,
)
from ft_pipeline.models.decoding.generate import Generation, to_generation
from ft_pipeline.models.decoding.target_logits import Pair


class LlamaCppLM(RecordingLM):
    """Reads the ids of the model's own tokenizer, one sequence at a time."""

    def __init__(
        self, model: EvaluatedModel, tokenizer: Any, reference: MergedReference, report_done: Callable[[int], None]
    ) -> None:
        super().__init__()
        self.start_recording(tokenizer, report_done)
        self._model = model
        self._reference = reference
        self.divergences: dict[TokenPair, float] = {}
        """By context and target, KL(merged || GGUF) summed over the tokens of the target, in nats."""

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def score_targets(self, pairs: Sequence[Pair]) -> list[TargetScore]:
        # In this order, neighbors share the longest prefixes, which are computed once.
        order = sorted(range(len(pairs)), key=lambda index: pairs[index])
        scores = {index: self._score(*pairs[index]) for index in order}
        return [scores[index] for index in range(len(pairs))]

    def _score(self, context: list[int], target: list[int]) -> TargetScore:
        logits = self._model.logits(context + target[:-1], len(context) - 1)
        log_probabilities = log_softmax(logits)
        merged = self._reference.log_probabilities(context, target)
        self.divergences[token_pair(context, target)] = kl_divergence(merged, log_probabilities)
        self.report_done(1)
        chosen = log_probabilities[np.arange(len(target)), target]
        return TargetScore(chosen.tolist(), bool((logits.argmax(axis=1) == target).all()))

    def answer_prompts(self, prompts: list[str], max_new_tokens: int) -> list[Generation]:
        return [self._answer_one(prompt, max_new_tokens) for prompt in prompts]

    def _answer_one(self, prompt: str, max_new_tokens: int) -> Generation:
        ids, stop_ids = self.tok_encode(prompt), self._reference.stop_ids
        answer = self._model.answer(ids, stop_ids, max_new_tokens)
        self.report_done(1)
        return to_generation(self.tokenizer, len(ids), answer, stop_ids)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> NoReturn:
        raise NotImplementedError("GGUF files are scored on the test rows only")
