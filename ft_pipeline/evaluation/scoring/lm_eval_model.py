"""Loaded models with lm-eval's model interface. The code of this project computes their likelihoods and answers."""

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text

from ft_pipeline.evaluation.scoring.likelihood import TargetScore, target_log_likelihoods
from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name
from ft_pipeline.models.decoding.generate import Generation, generate, to_generation, up_to_stop_token
from ft_pipeline.models.decoding.target_logits import Pair
from ft_pipeline.models.soft_prompt import virtual_token_count

TIMED_CALLS = 64
"""The first prompts are always answered: the time of a call is measured with them."""
logger = logging.getLogger(__name__)
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its warnings are about options that we set on purpose


class RecordingLM(TemplateLM):
    """An lm-eval model that keeps what lm-eval drops: the likelihood of each token, and how each answer ended.

    Contexts are already rendered, so no BOS is added and trailing white space is kept (lm-eval would score the
    template's last line break as part of the answer).
    """

    computed_in: str | None = None
    """The type that products are computed in, by its name in torch; None for an engine that mixes several."""

    def start_recording(self, tokenizer: Any, report_done: Callable[[int], None]) -> None:
        """Call it first. report_done: called with the number of requests answered since the last call."""
        self.tokenizer = tokenizer
        self.report_done = report_done
        self.generations: dict[str, Generation] = {}
        """Every answer by its prompt, with the counts that lm-eval does not keep."""
        self.log_probs: dict[tuple[str, str], list[float]] = {}
        """Log probability of each target token, by context and target. lm-eval keeps only their sums."""
        self.seconds_per_call: float | None = None
        """Time of an answer, from the first `TIMED_CALLS`."""
        self.greedy_targets: dict[str, list[int]] = {}
        """Token ids of a target that greedy decoding writes after a context, by context."""

    @abstractmethod
    def score_targets(self, pairs: Sequence[Pair]) -> list[TargetScore]:
        """Return the score of each pair of token ids, in this order. Reports each finished batch."""

    @abstractmethod
    def answer_prompts(self, prompts: list[str], max_new_tokens: int) -> list[Generation]:
        """Return the greedy answer to each rendered prompt, in this order. Reports each finished batch."""

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        return self.tokenizer(string, add_special_tokens=False)["input_ids"]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self.tok_encode(context), self.tok_encode(continuation)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        scores = self.score_targets([(context, target) for _, context, target in requests])
        for (texts, _, target), score in zip(requests, scores, strict=True):
            if texts is not None:  # the parts of a rolling likelihood have no texts
                self.log_probs[texts] = score.log_probs
                if score.is_greedy:
                    self.greedy_targets[texts[0]] = target
        return [(score.total, score.is_greedy) for score in scores]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Answer each prompt once per limit of new tokens, and cut the answers at the stop strings."""
        answers: dict[tuple[str, int], Generation] = {}
        prompts_and_limits = [
            (request.args[0], int(request.args[1].get("max_gen_toks", self.max_gen_toks))) for request in requests
        ]
        for limit in sorted({limit for _, limit in prompts_and_limits}):
            prompts = list(
                dict.fromkeys(prompt for prompt, prompt_limit in prompts_and_limits if prompt_limit == limit)
            )
            answers |= {
                (prompt, limit): answer for prompt, answer in zip(prompts, self._answer(prompts, limit), strict=True)
            }
        return [
            postprocess_generated_text(answers[key].text, _stop_strings(request.args[1]), None)
            for key, request in zip(prompts_and_limits, requests, strict=True)
        ]

    def _answer(self, prompts: list[str], max_new_tokens: int) -> list[Generation]:
        """Answer the prompts. What the likelihood of a reference has shown to be the greedy answer is not computed
        again."""
        timed, others = prompts[:TIMED_CALLS], prompts[TIMED_CALLS:]
        known = self.known_answers(others, max_new_tokens)
        unknown = [prompt for prompt in others if prompt not in known]
        started = time.monotonic()
        answers = dict(zip(timed, self.answer_prompts(timed, max_new_tokens), strict=True))
        if self.seconds_per_call is None:
            self.seconds_per_call = (time.monotonic() - started) / len(timed)
        answers |= zip(unknown, self.answer_prompts(unknown, max_new_tokens), strict=True)
        answers |= known
        self.report_done(len(known))
        self.generations |= answers
        return [answers[prompt] for prompt in prompts]

    def known_answers(self, prompts: Sequence[str], max_new_tokens: int) -> dict[str, Generation]:
        """Return the greedy answers that the likelihoods of targets have shown, by prompt. The rest is generated."""
        return {}

    @property
    def max_gen_toks(self) -> int:
        """The limit of new tokens of a request that names none, as in lm-eval."""
        return 256

    def get_model_info(self) -> dict[str, Any]:
        """Return nothing: the manifest identifies the model by its content, whereas lm-eval would query the hub."""
        return {}


class LoadedLM(RecordingLM, HFLM):
    """HFLM without the parts that are slow or wrong here.

    Log-probabilities are computed in 32 bit, for target tokens only. Answers come from the function that a teacher on
    this machine uses.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, report_done: Callable[[int], None]) -> None:
        """report_done: called with the number of requests that have been answered since the last call."""
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
        self.start_recording(tokenizer, report_done)
        self.computed_in = dtype_name(compute_dtype(model.device.type))

    def score_targets(self, pairs: Sequence[Pair]) -> list[TargetScore]:
        return target_log_likelihoods(self.model, pairs, batch_size=int(self.batch_size), report_done=self.report_done)

    def answer_prompts(self, prompts: list[str], max_new_tokens: int) -> list[Generation]:
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=int(self.batch_size),
            report=_ProgressCounter(self.report_done),
        )

    def known_answers(self, prompts: Sequence[str], max_new_tokens: int) -> dict[str, Generation]:
        stop_ids, virtual_tokens = stop_token_ids(self.tokenizer, self.model), virtual_token_count(self.model)
        known = {}
        for prompt in prompts:
            answer = up_to_stop_token(self.greedy_targets.get(prompt, []), stop_ids)[:max_new_tokens]
            if answer and (answer[-1] in stop_ids or len(answer) == max_new_tokens):
                prompt_tokens = virtual_tokens + len(self.tok_encode(prompt))
                known[prompt] = to_generation(self.tokenizer, prompt_tokens, answer, stop_ids)
        return known


def _stop_strings(options: dict[str, Any]) -> list[str]:
    until = options.get("until") or []
    return [until] if isinstance(until, str) else list(until)


class _ProgressCounter:
    """A reporter that passes on how many answers are new since the last report."""

    def __init__(self, report_done: Callable[[int], None]) -> None:
        self._report_done = report_done
        self._done = 0

    def progress(self, step: int, total: int, **values: float) -> None:
        self._report_done(step - self._done)
        self._done = step

    def log(self, message: str) -> None:
        logger.info(message)
