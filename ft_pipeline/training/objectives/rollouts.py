"""Draw answers to prompts with the model as it is now, and get their rewards."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ft_pipeline.models.attention import padded_attention
from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.models.decoding.generate import generate_ids, to_generation
from ft_pipeline.models.decoding.prefix_cache import Contexts
from ft_pipeline.models.decoding.token_loop import Decoding
from ft_pipeline.models.tool_calls import read_answer
from ft_pipeline.tables.formats.turns import spoken_text
from ft_pipeline.training.objectives.reward_client import Answer, Reward, RewardProcess
from ft_pipeline.training.trainer.acceleration import without_compiled_code
from ft_pipeline.training.trainer.loss import evaluation_mode


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the conversation that its answers are compared with."""

    ids: list[int]
    conversation: Mapping[str, Any]
    """{messages, tools}: the last message is the reference answer."""

    @property
    def uses_tools(self) -> bool:
        """Whether calls of tools are read in answers, as in the evaluation."""
        return bool(self.conversation["tools"] or self.conversation["messages"][-1].get("tool_calls"))


@dataclass(frozen=True)
class Rollout:
    """An answer with its reward."""

    prompt: Prompt
    ids: list[int]
    """The generated tokens, the stop token included."""
    is_cut_off: bool
    """Whether it reached the limit of tokens without a stop token."""
    reward: Reward


class Rollouts:
    """Answers of one model, with rewards."""

    def __init__(self, model: Any, tokenizer: Any, rewards: RewardProcess, max_new_tokens: int) -> None:
        self._model, self._tokenizer, self._rewards = model, tokenizer, rewards
        self._limit = max_new_tokens
        self._stops = stop_token_ids(tokenizer, model)

    def draw(self, prompts: Sequence[Prompt], *, batch_size: int, temperature: float, seed: int) -> list[Rollout]:
        """Return an answer to each prompt, in the given order. Temperature 0 is greedy.

        torch's generators have the same state afterwards.
        """
        decoding = Decoding(self._stops, self._limit, temperature)
        asked = [prompt.ids for prompt in prompts]
        ids = draw_ids(self._model, self._tokenizer, asked, decoding, batch_size, seed)
        answers = [self._answer(prompt, tokens) for prompt, tokens in zip(prompts, ids, strict=True)]
        rewards = self._rewards.rewards(answers)
        return [
            Rollout(prompt, tokens, tokens[-1] not in self._stops, reward)
            for prompt, tokens, reward in zip(prompts, ids, rewards, strict=True)
        ]

    def _answer(self, prompt: Prompt, ids: list[int]) -> Answer:
        """Return the answer as the evaluation reads it."""
        generation = to_generation(self._tokenizer, len(prompt.ids), ids, self._stops)
        if not prompt.uses_tools:
            return Answer(prompt.conversation, generation.text)
        turn = read_answer(self._tokenizer, generation.raw, prompt.conversation["tools"])
        return Answer(prompt.conversation, spoken_text(turn).strip(), turn.get("tool_calls") or ())


def draw_ids(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], decoding: Decoding, batch_size: int, seed: int
) -> list[list[int]]:
    """Return the tokens of an answer of a model in training to each prompt, the stop token included.

    torch's generators have the same state afterwards.
    """
    generated: dict[int, list[int]] = {}
    with (
        torch.random.fork_rng(),
        evaluation_mode(model),
        without_compiled_code(),
        padded_attention(model),
        compute_autocast(model),
    ):
        contexts = Contexts(model, prompts)
        for batch in generate_ids(contexts, tokenizer, decoding, batch_size=batch_size, seed=seed):
            generated |= batch
    return [generated[index] for index in range(len(prompts))]


def step_seed(seed: int, step: int) -> int:
    """Return the seed of the answers of an optimizer step: the same whether the training was resumed or not."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}".encode()).digest()[:4], "big")
