"""Test conversations to the texts that are scored: one item per assistant turn, under one way of prompting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.scoring.retrieval import ExamplePool, PassagePool
from ft_pipeline.models.chat import Message, pick_examples, prompt_and_target, render, with_prompt
from ft_pipeline.settings.project import PASSAGES, PromptVariant

QUESTION_LEAD = "Answer:"
"""General questions are answered behind this, as in lm-eval's own multiple-choice tasks."""


@dataclass(frozen=True)
class Prompt:
    """One way of prompting: what goes before the messages of an item."""

    system_prompt: str | None = None
    examples: tuple[tuple[Message, ...], ...] = ()
    """Fixed few-shot conversations out of the train split."""
    pool: ExamplePool | None = None
    """Where each item's own examples come from, in place of the fixed ones."""
    passages: PassagePool | None = None

    @classmethod
    def of(
        cls, variant: Mapping[str, Any], rows: Sequence[dict[str, Any]], seed: int, texts: Sequence[str] = ()
    ) -> "Prompt":
        """The prompt of a variant of project.yaml, the same for the same item in every run.

        rows: of `conversations`. texts: what passages are taken from. UserError where there are too few examples, or
        passages are wanted and there is no text.
        """
        wanted = PromptVariant.model_validate(dict(variant))
        if wanted.passages and not texts:
            raise UserError("a prompt variant asks for passages, but data/raw/text holds no usable text; add some")
        fixed = wanted.few_shot if wanted.examples == "fixed" else 0
        return cls(
            wanted.system_prompt,
            tuple(tuple(example) for example in pick_examples(rows, fixed, seed)),
            ExamplePool(rows, wanted.few_shot, seed) if wanted.few_shot > fixed else None,
            PassagePool(texts, rows, wanted.passages, wanted.passage_words) if wanted.passages else None,
        )

    @property
    def alone(self) -> str | None:
        """The system prompt without what is looked up for a question."""
        return self.system_prompt.replace(PASSAGES, "").strip() if self.system_prompt else None

    def before(self, messages: Sequence[Message]) -> list[Message]:
        """`messages` behind all of this prompt; what is looked up follows from the user's turns alone."""
        examples = self.pool.examples_for(messages) if self.pool else self.examples
        found = self.passages.passages_for(messages) if self.passages else []
        prompted = with_prompt(messages, _with_passages(self.system_prompt, found), examples)
        if found and messages[0]["role"] == "system":  # its own system turn won: the passages still belong to it
            prompted[0]["content"] = "\n\n".join([prompted[0]["content"], *found])
        return prompted


@dataclass(frozen=True)
class RenderedItem:
    """What lm-eval gets: `context + target` is the text, and the target ends with the stop token."""

    item: Item
    context: str
    target: str


def render_items(
    tokenizer: Any, items: Sequence[Item], prompt: Prompt, *, name: str, window: int | None, max_new_tokens: int
) -> list[RenderedItem]:
    """Render the items with the chat template.

    window: the model's context length in tokens. UserError, in terms of the prompt's `name`, where an item needs more.
    """
    rendered = [_render_item(tokenizer, item, prompt) for item in items]
    needed = [_tokens_needed(tokenizer, one, max_new_tokens) for one in rendered]
    if window is not None and max(needed) > window:
        over = sum(tokens > window for tokens in needed)
        raise UserError(
            f"{name}: {over} of {len(items)} test answers need up to {max(needed)} tokens of context, the model has "
            f"{window}; lower its few_shot or passages, or evaluation.max_new_tokens"
        )
    return rendered


def render_question(tokenizer: Any, question: str) -> str:
    """The context of a general question: a plain chat turn, without any prompt of the task."""
    messages = [{"role": "user", "content": question.strip()}]
    return render(tokenizer, messages, add_generation_prompt=True) + QUESTION_LEAD


def _render_item(tokenizer: Any, item: Item, prompt: Prompt) -> RenderedItem:
    context, target = prompt_and_target(tokenizer, prompt.before(item.messages))
    return RenderedItem(item, context, target)


def _with_passages(system_prompt: str | None, passages: Sequence[str]) -> str | None:
    """The passages where the system prompt says PASSAGES, else behind it: what all items share stays in front."""
    if not passages:
        return system_prompt
    text = "\n\n".join(passages)
    if system_prompt and PASSAGES in system_prompt:
        return system_prompt.replace(PASSAGES, text)
    return "\n\n".join(filter(None, [system_prompt, text]))


def _tokens_needed(tokenizer: Any, rendered: RenderedItem, max_new_tokens: int) -> int:
    context, target = tokenizer([rendered.context, rendered.target], add_special_tokens=False)["input_ids"]
    return len(context) + max(len(target), max_new_tokens)
