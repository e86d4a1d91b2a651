"""Convert conversations to tokens and labels: every assistant turn with its stop token is trained, nothing else.

Assistant turns of the weight 0 are not trained. What follows the last trained turn is left out.

Masks are computed by rendering prefixes, so that stock chat templates without generation markers work. A turn's context
is the template's rendering of everything before it. Its target is what the template then writes up to the stop token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import Message, prompt_and_target, render, split_reasoning
from ft_pipeline.models.reasoning import begin_of_answer
from ft_pipeline.tables.formats.turns import is_trained

MASKED = -100
"""The label of a token that is read but not trained (PyTorch's ignore_index)."""


@dataclass(frozen=True)
class Rendered:
    """One training text and the parts of it that are trained."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Character ranges [begin, end) of the trained turns, stop tokens included, in order."""
    split_by_turn: bool
    """Whether each turn is a separate text, because the template renders earlier turns differently."""

    @property
    def targets(self) -> list[str]:
        return [self.text[begin:end] for begin, end in self.spans]


@dataclass(frozen=True)
class Encoded:
    """One row of training data; both lists have the same length."""

    input_ids: list[int]
    labels: list[int]
    """The token id if it is trained, else `MASKED`; not shifted (the model shifts)."""


def without_untrained_end(messages: Sequence[Message]) -> list[Message]:
    """Return the turns up to the last one that is trained. UserError if there is none."""
    trained = [index for index, message in enumerate(messages) if is_trained(message)]
    if not trained:
        raise UserError("The conversation has no assistant turn to train on. Add one, or remove the row.")
    return list(messages[: trained[-1] + 1])


def render_conversation(
    tokenizer: Any, messages: Sequence[Message], tools: str | None = None, *, trains_reasoning: bool = True
) -> list[Rendered]:
    """Return the training texts of one conversation: one, or one per trained turn if the prefix property fails.

    The property: the rendering of the first k turns is a prefix of the rendering of more turns. Qwen3's template breaks
    it, because it removes the reasoning of earlier turns. Then each turn is rendered as generation would see it.
    UserError if no turn is trained.
    """
    messages = without_untrained_end(messages)
    ends = [index + 1 for index, message in enumerate(messages) if is_trained(message)]
    pairs = [prompt_and_target(tokenizer, messages[:end], tools) for end in ends]
    if not trains_reasoning:
        pairs = [answer_alone(*pair, messages[end - 1]) for pair, end in zip(pairs, ends, strict=True)]
    whole = render(tokenizer, messages, add_generation_prompt=False, tools=tools)
    if all(whole.startswith(context + target) for context, target in pairs):
        spans = tuple((len(context), len(context) + len(target)) for context, target in pairs)
        return [Rendered(whole[: spans[-1][1]], spans, split_by_turn=False)]
    return [
        Rendered(context + target, ((len(context), len(context) + len(target)),), split_by_turn=True)
        for context, target in pairs
    ]


def answer_alone(context: str, target: str, message: Message) -> tuple[str, str]:
    """Return context and target with the reasoning of the last turn, `message`, in the context."""
    begin = begin_of_answer(target, message)
    return context + target[:begin], target[begin:]


@dataclass(frozen=True)
class DroppedTurns:
    """The parts of one conversation that are missing from its training texts."""

    turns: tuple[str, ...]
    """The turns that the chat template leaves out, e.g. `turn 3 (tool)`."""
    reasoning_turns: int
    """Number of assistant turns with reasoning."""
    reasoning_left_out: tuple[int, ...]
    """The turns (from 1) whose reasoning is not in the texts."""
    reasoning_hidden: int = 0
    """Number of turns whose reasoning the template leaves out of the prompts of later answers."""
    trained_reasoning: tuple[str, ...] = ()
    """The reasoning that is trained."""


def find_dropped_turns(messages: Sequence[Message], texts: Sequence[Rendered]) -> DroppedTurns:
    """Compare the turns up to the last trained one with the texts that render_conversation made of them. The last text
    has all of them in order.

    A system turn may be anywhere (some templates write it into the last human turn).
    """
    last_text, position = texts[-1].text, 0
    targets = [target for text in texts for target in text.targets]
    turns: list[str] = []
    reasoning_turns, reasoning_left_out, reasoning_hidden, trained_reasoning = 0, [], 0, []
    for number, message in enumerate(without_untrained_end(messages), 1):
        reasoning, content = split_reasoning(message)
        if reasoning:
            reasoning_turns += 1
            if not any(reasoning in text.text for text in texts):
                reasoning_left_out.append(number)
            elif reasoning not in last_text:
                reasoning_hidden += 1
            if any(reasoning in target for target in targets):
                trained_reasoning.append(reasoning)
        begin = last_text.find(content, 0 if message["role"] == "system" else position)
        if begin < 0:
            turns.append(f"turn {number} ({message['role']})")
        elif message["role"] != "system":
            position = begin + len(content)
    return DroppedTurns(
        tuple(turns), reasoning_turns, tuple(reasoning_left_out), reasoning_hidden, tuple(trained_reasoning)
    )


def reasoning_dropped(messages: Sequence[Message], dropped: DroppedTurns) -> DroppedTurns:
    """Return `dropped` of turns without reasoning, with the reasoning that `messages` had."""
    shown = enumerate(without_untrained_end(messages), 1)
    numbers = tuple(number for number, message in shown if split_reasoning(message)[0])
    return replace(dropped, reasoning_turns=len(numbers), reasoning_left_out=numbers)


TrainedCalls = tuple[tuple[dict[str, str], ...], ...]
"""The calls of tools in each trained turn of a text; empty if none of them has any."""


def trained_calls(messages: Sequence[Message], texts: Sequence[Rendered]) -> list[TrainedCalls]:
    """Return the calls in each text that render_conversation made of the turns."""
    turns = iter([tuple(message.get("tool_calls") or ()) for message in messages if is_trained(message)])
    by_text = [tuple(next(turns) for _ in text.spans) for text in texts]
    return [called if any(called) else () for called in by_text]


def encode(tokenizer: Any, texts: Sequence[Rendered]) -> list[Encoded]:
    """Tokenize rendered texts. The template has already written BOS and the other control tokens."""
    if not texts:
        return []
    if not tokenizer.is_fast:
        return [_encode_in_pieces(tokenizer, text) for text in texts]
    batch = tokenizer([text.text for text in texts], add_special_tokens=False, return_offsets_mapping=True)
    rows = zip(texts, batch["input_ids"], batch["offset_mapping"], strict=True)
    return [_label_tokens(tokenizer, text, ids, offsets) for text, ids, offsets in rows]


def _label_tokens(tokenizer: Any, rendered: Rendered, ids: list[int], offsets: list[tuple[int, int]]) -> Encoded:
    """Return the tokens of a text with their labels. offsets: the character range of each token."""
    if any(begin < edge < end for begin, end in offsets for edge, _ in rendered.spans):
        # A token spans the boundary of prompt and answer ("\n" + "\n" → "\n\n"). Generation gets the prompt alone and
        # would never see that token. Tokenize as generation does, unless that changes the text.
        pieces = _encode_in_pieces(tokenizer, rendered)
        if _decode(tokenizer, pieces.input_ids) == _decode(tokenizer, ids):
            return pieces
    labels = [MASKED] * len(ids)
    spans = iter(rendered.spans)
    span = next(spans, None)
    for position, (begin, end) in enumerate(offsets):
        while span is not None and begin >= span[1] and end > span[1]:
            span = next(spans, None)
        if span is not None and _is_covered(begin, end, span):
            labels[position] = ids[position]
    return Encoded(list(ids), labels)


def _is_covered(begin: int, end: int, span: tuple[int, int]) -> bool:
    """Whether a token with this character range belongs to a span."""
    # Byte-level tokenizers with trim_offsets give white space the empty range after it, hence `end > span[0]`: a
    # prompt's last "\n" has begin = end = span[0].
    return end > span[0] and (begin < span[1] or begin == end == span[1])


def _encode_in_pieces(tokenizer: Any, rendered: Rendered) -> Encoded:
    """Tokenize each prompt and each answer separately."""
    ids: list[int] = []
    labels: list[int] = []
    for piece, trained in _split_at_spans(rendered):
        piece_ids = tokenizer(piece, add_special_tokens=False)["input_ids"]
        ids += piece_ids
        labels += piece_ids if trained else [MASKED] * len(piece_ids)
    return Encoded(ids, labels)


def _split_at_spans(rendered: Rendered) -> Iterable[tuple[str, bool]]:
    """Yield the parts of a text: (part, whether it is trained)."""
    position = 0
    for begin, end in rendered.spans:
        yield rendered.text[position:begin], False
        yield rendered.text[begin:end], True
        position = end


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
