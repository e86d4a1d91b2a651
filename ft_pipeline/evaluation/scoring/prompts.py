"""Prompt variants, and the test items rendered under them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.scoring.retrieval import ExamplePool, PassagePool
from ft_pipeline.models.chat import Message, pick_examples, prompt_and_target, render, with_prompt
from ft_pipeline.models.reasoning import without_reasoning
from ft_pipeline.settings.prompt_variant import PASSAGES, PromptVariant
from ft_pipeline.tables.formats.turns import plain

ANSWER_LEAD = "Answer:"
"""The text between a general question and its answer, as in lm-eval's multiple-choice tasks."""


@dataclass(frozen=True)
class Prompt:
    """A prompt variant: what comes before the messages of an item."""

    system_prompt: str | None = None
    examples: tuple[tuple[Message, ...], ...] = ()
    """Fixed few-shot conversations from the train split."""
    may_shrink: bool = False
    """Whether a question that leaves no room for all of these gets fewer of them: they were searched on others."""
    example_pool: ExamplePool | None = None
    """The source of examples that are retrieved for each item. They replace the fixed ones."""
    passage_pool: PassagePool | None = None
    """The source of passages that are retrieved for each item."""
    replace_system: bool = False
    """Whether the system prompt takes the place of an item's own system turn."""
    drops_reasoning: bool = False
    """Whether the reasoning in an item is left out, as in the training of the model."""

    @classmethod
    def from_variant(
        cls,
        variant: Mapping[str, Any],
        rows: Sequence[dict[str, Any]],
        seed: int,
        texts: Sequence[str] = (),
        pool: ExamplePool | None = None,
    ) -> "Prompt":
        """Return the prompt of a variant in project.yaml. The same item gets the same prompt in every run.

        rows: the rows of `conversations`. texts: the source of passages, without those that show a held-out row. pool:
        that of the rows, if it is made already, with any number of examples. Raises UserError if there are too few
        examples, or if the variant has passages and there is no text.
        """
        settings = PromptVariant.model_validate(dict(variant))
        if settings.passages and not texts:
            raise UserError("A prompt variant needs passages, but data/raw/text contains no usable text. Add some.")
        fixed = settings.few_shot if settings.examples == "fixed" else 0
        examples = pick_examples(rows, fixed, seed, settings.example_rows)
        if settings.few_shot == fixed:
            pool = None
        else:
            pool = pool.showing(settings.few_shot) if pool else ExamplePool(rows, settings.few_shot, seed)
        return cls(
            settings.system_prompt,
            tuple(tuple(example) for example in examples),
            bool(settings.example_rows),
            pool,
            PassagePool(texts, settings.passages, settings.passage_words) if settings.passages else None,
            settings.replace_system,
        )

    @property
    def fixed_system_prompt(self) -> str | None:
        """The system prompt without retrieved passages and their placeholder."""
        return self.system_prompt.replace(PASSAGES, "").strip() if self.system_prompt else None

    def with_fewer_examples(self) -> "Prompt | None":
        """Return the prompt without its first example; retrieved ones, without the least similar. None if it has none,
        or may not lose one."""
        if self.example_pool:
            return replace(self, example_pool=self.example_pool.with_fewer())
        return replace(self, examples=self.examples[1:]) if self.may_shrink and self.examples else None

    def prepend_to(self, messages: Sequence[Message]) -> list[Message]:
        """Return this prompt followed by `messages`. Retrieval depends only on the user turns.

        A system turn in `messages` replaces the system prompt, unless `replace_system`; retrieved passages are then
        added to it.
        """
        examples = self.example_pool.examples_for(messages) if self.example_pool else self.examples
        passages = self.passage_pool.passages_for(messages) if self.passage_pool else []
        system_prompt = _with_passages(self.system_prompt, passages)
        prompted = with_prompt(messages, system_prompt, examples, replace_system=self.replace_system)
        if passages and messages[0]["role"] == "system" and not self.replace_system:
            prompted[0]["content"] = "\n\n".join([prompted[0]["content"], *passages])
        return prompted


@dataclass(frozen=True)
class RenderedItem:
    """An item as lm-eval scores it. `context + target` is the whole text; the target ends with the stop token."""

    item: Item
    context: str
    target: str


def render_items(
    tokenizer: Any, items: Sequence[Item], prompt: Prompt, *, name: str, window: int | None, max_new_tokens: int
) -> list[RenderedItem]:
    """Render the items with the chat template.

    window: the model's context length in tokens. Raises UserError, with the prompt's `name`, if an item needs more.
    """
    rendered = [_with_fitting_examples(tokenizer, item, prompt, window, max_new_tokens) for item in items]
    token_counts = [_tokens_needed(tokenizer, text, max_new_tokens) for text in rendered]
    if window is not None and max(token_counts) > window:
        too_long = sum(tokens > window for tokens in token_counts)
        raise UserError(
            f"{name}: {too_long} of {len(items)} test answers need up to {max(token_counts)} tokens of context, but "
            f"the model has {window}. Lower its few_shot or passages, or evaluation.max_new_tokens."
        )
    return rendered


def fitting_items(tokenizer: Any, items: Sequence[Item], prompt: Prompt, window: int | None) -> list[RenderedItem]:
    """Return the rendered items whose reference answers fit into `window` tokens."""
    rendered = [_with_fitting_examples(tokenizer, item, prompt, window, 0) for item in items]
    return [text for text in rendered if window is None or _tokens_needed(tokenizer, text, 0) <= window]


def token_ids(tokenizer: Any, rendered: Sequence[RenderedItem]) -> list[tuple[list[int], list[int]]]:
    """Return the token ids of the context and of the target of each item."""
    texts = [text for item in rendered for text in (item.context, item.target)]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return list(zip(ids[::2], ids[1::2], strict=True))


def render_question(tokenizer: Any, question: str) -> str:
    """Return the context of a general question: a single user turn, without the prompt variant."""
    messages = [{"role": "user", "content": question.strip()}]
    return render(tokenizer, messages, add_generation_prompt=True) + ANSWER_LEAD


def _with_fitting_examples(
    tokenizer: Any, item: Item, prompt: Prompt, window: int | None, max_new_tokens: int
) -> RenderedItem:
    """Render an item; where its examples do not fit into `window` tokens, and may be fewer, without some of them."""
    rendered = _render_item(tokenizer, item, prompt)
    while window is not None and _tokens_needed(tokenizer, rendered, max_new_tokens) > window:
        fewer = prompt.with_fewer_examples()
        if fewer is None:
            break
        prompt, rendered = fewer, _render_item(tokenizer, item, fewer)
    return rendered


def _render_item(tokenizer: Any, item: Item, prompt: Prompt) -> RenderedItem:
    if prompt.drops_reasoning:
        item = replace(item, messages=tuple(without_reasoning(plain(item.messages))))
    context, target = prompt_and_target(tokenizer, prompt.prepend_to(item.messages), item.tools)
    return RenderedItem(item, context, target)


def _with_passages(system_prompt: str | None, passages: Sequence[str]) -> str | None:
    """Return the system prompt with the passages in place of PASSAGES, or at its end, so that the part that all items
    share comes first."""
    if not passages:
        return system_prompt
    text = "\n\n".join(passages)
    if system_prompt and PASSAGES in system_prompt:
        return system_prompt.replace(PASSAGES, text)
    return "\n\n".join(filter(None, [system_prompt, text]))


def _tokens_needed(tokenizer: Any, rendered: RenderedItem, max_new_tokens: int) -> int:
    """Return how many tokens of context an item needs, for its reference answer and for a generated one."""
    context, target = tokenizer([rendered.context, rendered.target], add_special_tokens=False)["input_ids"]
    return len(context) + max(len(target), max_new_tokens)
