"""Draw answers to prompts with the model as it is now, and get their rewards."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ft_pipeline.errors import UserError
from ft_pipeline.models.attention import padded_attention
from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.models.decoding.generate import generate_ids, to_generation
from ft_pipeline.models.decoding.prefix_cache import Contexts
from ft_pipeline.models.decoding.token_loop import Decoding
from ft_pipeline.models.model_structure import context_window
from ft_pipeline.models.tool_calls import read_answer
from ft_pipeline.tables.formats.turns import spoken_text
from ft_pipeline.training.objectives.reward_client import Answer, Reward, RewardProcess
from ft_pipeline.training.tokens.chat_tokens import MASKED
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


Groups = list[list[Rollout]]
"""The answers to each prompt."""


def prompt_ids(row: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a row of the training data before its answer."""
    begin = next(position for position, label in enumerate(row["labels"]) if label != MASKED)
    ids: list[int] = row["input_ids"][:begin]
    return ids


def require_room(
    rows: Sequence[Mapping[str, Any]], model: Any, max_length: int, section: str, max_new_tokens: int
) -> None:
    """Raise UserError if the longest prompt with an own answer is longer than a row may be, or than the context.

    section: that of the experiment in which `max_new_tokens` is set.
    """
    longest = max(len(prompt_ids(row)) for row in rows)
    window = context_window(model.config) or max_length
    if longest + max_new_tokens <= min(max_length, window):
        return
    limit, fix = f"training.max_length: {max_length}", "Raise it, lower max_new_tokens, or remove the row."
    if window < max_length:
        limit, fix = f"the context of {window}", "Lower max_new_tokens, or remove the row."
    raise UserError(
        f"The longest prompt has {longest} tokens, which with {section}.max_new_tokens: {max_new_tokens} is more than "
        f"{limit}. {fix}"
    )


class Rollouts:
    """Answers of one model, with rewards."""

    def __init__(self, model: Any, tokenizer: Any, rewards: RewardProcess, max_new_tokens: int) -> None:
        self._model, self._tokenizer, self._rewards = model, tokenizer, rewards
        self._limit = max_new_tokens
        self._stops = stop_token_ids(tokenizer, model)

    def draw(self, prompts: Sequence[Prompt], copies: int, *, batch_size: int, seed: int, temperature: float) -> Groups:
        """Return as many answers to each prompt as `copies`, sampled at `temperature`, with their rewards."""
        return self._groups(prompts, Decoding(self._stops, self._limit, temperature), batch_size, copies, seed)

    def greedy(self, prompts: Sequence[Prompt], *, batch_size: int) -> list[Rollout]:
        """Return the answer to each prompt as models are scored."""
        groups = self._groups(prompts, Decoding(self._stops, self._limit), batch_size)
        return [rollout for (rollout,) in groups]

    def _groups(
        self, prompts: Sequence[Prompt], decoding: Decoding, batch_size: int, copies: int = 1, seed: int = 0
    ) -> Groups:
        """Return the answers to each prompt with their rewards, in the given order."""
        asked = [prompt for prompt in prompts for _ in range(copies)]
        texts = [prompt.ids for prompt in prompts]
        ids = draw_ids(self._model, self._tokenizer, texts, decoding, batch_size=batch_size, seed=seed, copies=copies)
        answers = [self._answer(prompt, tokens) for prompt, tokens in zip(asked, ids, strict=True)]
        rewards = self._rewards.rewards(answers)
        rollouts = [
            Rollout(prompt, tokens, tokens[-1] not in self._stops, reward)
            for prompt, tokens, reward in zip(asked, ids, rewards, strict=True)
        ]
        return [rollouts[begin : begin + copies] for begin in range(0, len(rollouts), copies)]

    def _answer(self, prompt: Prompt, ids: list[int]) -> Answer:
        """Return the answer as the evaluation reads it."""
        generation = to_generation(self._tokenizer, len(prompt.ids), ids, self._stops)
        if not prompt.uses_tools:
            return Answer(prompt.conversation, generation.text)
        turn = read_answer(self._tokenizer, generation.raw, prompt.conversation["tools"])
        return Answer(prompt.conversation, spoken_text(turn).strip(), turn.get("tool_calls") or ())


def step_seed(seed: int, step: int) -> int:
    """Return the seed of the answers of an optimizer step: the same whether the training was resumed or not."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}".encode()).digest()[:4], "big")


def draw_ids(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    *,
    batch_size: int,
    seed: int,
    copies: int = 1,
) -> list[list[int]]:
    """Return the tokens of answers of a model in training, the stop token included: `copies` to each prompt.

    Only the seed, the prompt and the number of the copy choose the tokens of a sampled answer. Rank and batch do not.
    torch's generators have the same state afterwards.
    """
    samples = decoding.temperature > 0
    numbers = [draw_numbers(seed, prompt, copies, decoding.max_new_tokens) for prompt in prompts] if samples else []
    generated: dict[int, list[int]] = {}
    with (
        torch.random.fork_rng(),
        evaluation_mode(model),
        without_compiled_code(),
        padded_attention(model),
        compute_autocast(model),
    ):
        batches = generate_ids(
            Contexts(model, prompts),
            tokenizer,
            decoding,
            batch_size=batch_size,
            seed=seed,
            copies=copies,
            uniforms=torch.cat(numbers) if numbers else None,
        )
        for batch in batches:
            generated |= batch
    return [generated[index] for index in range(len(prompts) * copies)]


def draw_numbers(seed: int, prompt: Sequence[int], copies: int, tokens: int) -> Tensor:
    """Return the numbers from 0 to 1 that choose the tokens of the answers to a prompt [copies, tokens]."""
    digest = hashlib.sha256(f"{seed}:{','.join(map(str, prompt))}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(copies, tokens, generator=generator, dtype=torch.float64)
