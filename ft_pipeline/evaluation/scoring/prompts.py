"""Prompt variants, and the test items rendered under them: one scored text per assistant turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.scoring.retrieval import ExamplePool, PassagePool
from ft_pipeline.models.chat import Message, pick_examples, prompt_and_target, render, with_prompt
from ft_pipeline.settings.project import PASSAGES, PromptVariant

QUESTION_LEAD = "Answer:"
"""The lead before the answer to a general question, as in lm-eval's multiple-choice tasks."""


@dataclass(frozen=True)
class Prompt:
    """A prompt variant: the content before the messages of an item."""

    system_prompt: str | None = None
    examples: tuple[tuple[Message, ...], ...] = ()
    """Fixed few-shot conversations from the train split."""
    pool: ExamplePool | None = None
    """The source of examples that are retrieved per item, which replace the fixed ones."""
    passages: PassagePool | None = None

    @classmethod
    def of(
        cls, variant: Mapping[str, Any], rows: Sequence[dict[str, Any]], seed: int, texts: Sequence[str] = ()
    ) -> "Prompt":
        """Return the prompt of a variant of project.yaml, the same for the same item in every run.

        rows: the rows of `conversations`. texts: the source of passages. Raises UserError if there are too few
        examples, or if passages are requested and there is no text.
        """
        wanted = PromptVariant.model_validate(dict(variant))
        if wanted.passages and not texts:
            raise UserError("A prompt variant needs passages, but data/raw/text contains no usable text. Add some.")
        fixed = wanted.few_shot if wanted.examples == "fixed" else 0
        return cls(
            wanted.system_prompt,
            tuple(tuple(example) for example in pick_examples(rows, fixed, seed)),
            ExamplePool(rows, wanted.few_shot, seed) if wanted.few_shot > fixed else None,
            PassagePool(texts, rows, wanted.passages, wanted.passage_words) if wanted.passages else None,
        )

    @property
    def alone(self) -> str | None:
        """The system prompt without the content that is retrieved per question."""
        return self.system_prompt.replace(PASSAGES, "").strip() if self.system_prompt else None

    def before(self, messages: Sequence[Message]) -> list[Message]:
        """Return this prompt followed by `messages`. Retrieval depends only on the user turns."""
        examples = self.pool.examples_for(messages) if self.pool else self.examples
        passages = self.passages.passages_for(messages) if self.passages else []
        prompted = with_prompt(messages, _with_passages(self.system_prompt, passages), examples)
        if passages and messages[0]["role"] == "system":  # the item's system turn replaced ours: add the passages to it
            prompted[0]["content"] = "\n\n".join([prompted[0]["content"], *passages])
        return prompted


@dataclass(frozen=True)
class RenderedItem:
    """The input of lm-eval: `context + target` is the text, and the target ends with the stop token."""

    item: Item
    context: str
    target: str


def render_items(
    tokenizer: Any, items: Sequence[Item], prompt: Prompt, *, name: str, window: int | None, max_new_tokens: int
) -> list[RenderedItem]:
    """Render the items with the chat template.

    window: the model's context length in tokens. Raises UserError, with the prompt's `name`, if an item needs more.
    """
    rendered = [_render_item(tokenizer, item, prompt) for item in items]
    needed = [_tokens_needed(tokenizer, text, max_new_tokens) for text in rendered]
    if window is not None and max(needed) > window:
        over = sum(tokens > window for tokens in needed)
        raise UserError(
            f"{name}: {over} of {len(items)} test answers need up to {max(needed)} tokens of context, but the model "
            f"has {window}. Lower its few_shot or passages, or evaluation.max_new_tokens."
        )
    return rendered


def render_question(tokenizer: Any, question: str) -> str:
    """Return the context of a general question: a plain chat turn, without a prompt of the task."""
    messages = [{"role": "user", "content": question.strip()}]
    return render(tokenizer, messages, add_generation_prompt=True) + QUESTION_LEAD


def _render_item(tokenizer: Any, item: Item, prompt: Prompt) -> RenderedItem:
    context, target = prompt_and_target(tokenizer, prompt.before(item.messages))
    return RenderedItem(item, context, target)


def _with_passages(system_prompt: str | None, passages: Sequence[str]) -> str | None:
    """Return the system prompt with the passages in place of PASSAGES, or at its end: the shared part stays first."""
    if not passages:
        return system_prompt
    text = "\n\n".join(passages)
    if system_prompt and PASSAGES in system_prompt:
        return system_prompt.replace(PASSAGES, text)
    return "\n\n".join(filter(None, [system_prompt, text]))


def _tokens_needed(tokenizer: Any, rendered: RenderedItem, max_new_tokens: int) -> int:
    context, target = tokenizer([rendered.context, rendered.target], add_special_tokens=False)["input_ids"]
    return len(context) + max(len(target), max_new_tokens)
