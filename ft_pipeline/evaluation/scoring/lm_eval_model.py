"""lm-eval's model interface for a loaded model, with the batches, answers and token counts of this package."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text

from ft_pipeline.evaluation.scoring.likelihood import target_log_likelihoods
from ft_pipeline.models.decoding.generate import Generation, generate

logger = logging.getLogger(__name__)
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its warnings are about options that we set on purpose


class LoadedLM(HFLM):
    """HFLM without the parts that are slow or wrong here.

    Contexts are already rendered, so no BOS is added and trailing white space is kept (HFLM would score the template's
    last line break as part of the answer). Log-probabilities are summed in 32 bit, over target tokens only. Answers
    come from the function that the teacher uses.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, on_done: Callable[[int], None]) -> None:
        """on_done: called with the number of requests that have been answered since the last call."""
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
        self._on_done = on_done
        self.generations: dict[str, Generation] = {}
        """Every answer by its prompt, with the counts that lm-eval does not keep."""
        self.generation_seconds = 0.0

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        return self.tokenizer(string, add_special_tokens=False)["input_ids"]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self.tok_encode(context), self.tok_encode(continuation)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, target) for _, context, target in requests]
        return target_log_likelihoods(self.model, pairs, batch_size=int(self.batch_size), on_done=self._on_done)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        answers: dict[tuple[str, int], Generation] = {}
        asked = [(request.args[0], int(request.args[1].get("max_gen_toks", self.max_gen_toks))) for request in requests]
        for limit in sorted({limit for _, limit in asked}):
            prompts = list(dict.fromkeys(prompt for prompt, tokens in asked if tokens == limit))
            answers |= {
                (prompt, limit): answer for prompt, answer in zip(prompts, self._answer(prompts, limit), strict=True)
            }
        return [
            postprocess_generated_text(answers[key].text, _stops(request.args[1]), None)
            for key, request in zip(asked, requests, strict=True)
        ]

    def _answer(self, prompts: list[str], max_new_tokens: int) -> list[Generation]:
        started = time.monotonic()
        answers = generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=int(self.batch_size),
            report=_Counter(self._on_done),
        )
        self.generation_seconds += time.monotonic() - started
        self.generations.update(zip(prompts, answers, strict=True))
        return answers

    def get_model_info(self) -> dict[str, Any]:
        """Return nothing: the manifest identifies the model by its content, and lm-eval would query the hub."""
        return {}


def _stops(options: dict[str, Any]) -> list[str]:
    until = options.get("until") or []
    return [until] if isinstance(until, str) else list(until)


class _Counter:
    """A reporter that passes on the number of new answers."""

    def __init__(self, on_done: Callable[[int], None]) -> None:
        self._on_done = on_done
        self._done = 0

    def progress(self, step: int, total: int, **values: float) -> None:
        self._on_done(step - self._done)
        self._done = step

    def log(self, message: str) -> None:
        logger.info(message)
