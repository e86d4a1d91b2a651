"""The reasoning in assistant turns: left out, or only shown, by choice of the experiment (`data.reasoning`)."""

from collections.abc import Sequence

from ft_pipeline.models.chat import END_OF_REASONING, split_reasoning
from ft_pipeline.tables.formats.turns import Message


def without_reasoning(messages: Sequence[Message]) -> list[Message]:
    """Return the turns without `reasoning_content`, and without the text up to `</think>` in answers."""
    return [_without_reasoning(message) for message in messages]


def _without_reasoning(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    kept = {key: item for key, item in message.items() if key != "reasoning_content"}
    if END_OF_REASONING in message["content"]:
        kept["content"] = split_reasoning(kept)[1]
    return kept


def begin_of_answer(target: str, message: Message) -> int:
    """Return where the answer of a turn begins after its reasoning in `target` (as prompt_and_target returns it); 0 if
    the template writes no reasoning."""
    reasoning, _ = split_reasoning(message)
    found = target.find(reasoning) if reasoning else -1
    if found < 0:
        return 0
    end = found + len(reasoning)
    closed = target.find(END_OF_REASONING, end)
    if closed >= 0:
        end = closed + len(END_OF_REASONING)
    return end + len(target[end:]) - len(target[end:].lstrip())
