"""Draw answers to prompts with the model as it is now, and get their rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.decoding.generate import to_generation
from ft_pipeline.models.decoding.token_loop import Decoding
from ft_pipeline.models.tool_calls import read_answer
from ft_pipeline.rewards.client import Answer, Reward, RewardProcess
from ft_pipeline.tables.formats.turns import spoken_text
from ft_pipeline.training.objectives.drawn_answers import draw_ids


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
