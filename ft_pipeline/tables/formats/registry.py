"""One parsed row into the columns of its format, or the fault that keeps it from being used. No value changes type.

What stands inside the strings (control tokens, placeholders, refusals) is judged afterwards, by the schemas.
"""

from collections.abc import Callable
from typing import Any

from ft_pipeline.tables.excluded_rows import is_mark
from ft_pipeline.tables.formats.turns import check_order, read_turns
from ft_pipeline.tables.reading.json_parser import blank, missing, names_of, seen
from ft_pipeline.tables.reading.sidecar import PLAIN, Sidecar, rename
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import EMPTY_CHARS, is_empty

COLUMNS: dict[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "sharegpt": ("messages",),
    "text": ("text",),
    "preferences": ("prompt_messages", "chosen", "rejected"),
    "unlabelled": ("messages",),
}
REQUIRED: dict[str, tuple[frozenset[str], ...]] = {
    "alpaca": (frozenset({"instruction", "output"}),),
    "sharegpt": (frozenset({"conversations"}), frozenset({"messages"})),
    "text": (frozenset({"text"}),),
    "preferences": (frozenset({"chosen", "rejected"}),),
    "unlabelled": (frozenset({"instruction"}), frozenset({"conversations"}), frozenset({"messages"})),
}
"""A file in which no row has one of these sets of keys is of another format."""
READ_KEYS: dict[str, frozenset[str]] = {
    "alpaca": frozenset({"instruction", "input", "output", "system", "history"}),
    "sharegpt": frozenset({"conversations", "messages"}),
    "text": frozenset({"text"}),
    "preferences": frozenset({"prompt", "chosen", "rejected", "conversations", "messages"}),
    "unlabelled": frozenset({"instruction", "input", "system", "history", "conversations", "messages"}),
}
"""The keys that are used; others are dropped and named once per file."""
_SIGNS = {
    "alpaca": frozenset({"instruction"}),
    "sharegpt": frozenset({"conversations", "messages"}),
    "text": frozenset({"text"}),
    "preferences": frozenset({"chosen", "rejected"}),
}

FORGOTTEN = Fault("excluded", "forgotten on request")
Record = tuple[Any, ...]
Converter = Callable[[dict[str, Any], Sidecar], Record | Fault]


def convert(data_format: str, value: Any, sidecar: Sidecar = PLAIN) -> Record | Fault:
    """The record of one row, its values in the order of COLUMNS[data_format], or its fault."""
    if isinstance(value, Fault):
        return value
    if not isinstance(value, dict):
        return Fault("wrong_type", f"the row is {seen(value)}; a row must be an object with named values")
    if is_mark(value):
        return FORGOTTEN
    if sidecar.columns:
        value = rename(value, sidecar)
    return CONVERTERS[data_format](value, sidecar)


def _alpaca(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    instruction, answer, extra = value.get("instruction"), value.get("output"), value.get("input")
    plain = type(instruction) is str and type(answer) is str and (type(extra) is str or extra is None)
    if not plain and (fault := _alpaca_fault(value)):
        return fault
    if not instruction.strip(EMPTY_CHARS):  # type: ignore[union-attr]
        return Fault("missing_instruction", "`instruction` is empty; write the question, or remove the row")
    if not answer.strip(EMPTY_CHARS):  # type: ignore[union-attr]
        return Fault("empty_output", f"`output` is {blank(answer)}; write the answer, or remove the row")
    if "system" not in value and "history" not in value:
        return instruction, extra or "", answer, None, None
    context = _context(value)
    return context if isinstance(context, Fault) else (instruction, extra or "", answer, *context)


def _alpaca_fault(value: dict[str, Any]) -> Fault | None:
    if not {"instruction", "output"} & value.keys() and (other := _other_format(value, "alpaca")):
        return other
    if fault := _not_text(value, ("instruction", "input", "output")):
        return fault
    if value.get("instruction") is None:
        return Fault("missing_instruction", missing(value, "instruction"))
    if "output" not in value:
        return Fault("missing_output", missing(value, "output"))
    if value["output"] is None:
        return Fault("empty_output", "`output` is null; write the answer, or remove the row")
    return None


def _context(value: dict[str, Any]) -> tuple[str | None, list[list[str]] | None] | Fault:
    """The optional system prompt and earlier turns of an instruction."""
    if fault := _not_text(value, ("system",)):
        return fault
    system, history = value.get("system"), value.get("history")
    history = None if history == "" else history  # an empty CSV cell
    if history is not None and not isinstance(history, list):
        return Fault("wrong_type", f"`history` is {seen(history)}; it must be a list of [question, answer]")
    for pair in history or []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(item, str) for item in pair)):
            return Fault(
                "wrong_type", f"`history` holds {seen(pair)}; it must be a list of [question, answer], both texts"
            )
        if any(is_empty(item) for item in pair):
            return Fault("empty_value", "`history` holds an empty turn; remove the pair")
    return (system if system and not is_empty(system) else None), (history or None)


def _sharegpt(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    raw = _turn_list(value, "sharegpt")
    if isinstance(raw, Fault):
        return raw
    turns = read_turns(raw, sidecar)
    if isinstance(turns, Fault):
        return turns
    fault = check_order(turns, last="assistant")
    return fault or (turns,)


def _turn_list(value: dict[str, Any], data_format: str) -> list[Any] | Fault:
    name = "conversations" if "conversations" in value else "messages"
    if name not in value:
        return _other_format(value, data_format) or Fault("missing_conversations", missing(value, "conversations"))
    turns = value[name]
    if turns is None or turns == []:
        return Fault(
            "empty_conversation", f"`{name}` is {'null' if turns is None else 'an empty list'}; remove the row"
        )
    if not isinstance(turns, list):
        return Fault("wrong_type", f"`{name}` is {seen(turns)}; it must be a list of turns")
    return turns


def _text(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    if "text" not in value:
        return _other_format(value, "text") or Fault("missing_text", missing(value, "text"))
    text = value["text"]
    if not isinstance(text, str):
        return Fault("wrong_type", f"`text` is {seen(text)}; it must be a text")
    return Fault("empty_text", f"`text` is {blank(text)}; remove the row") if is_empty(text) else (text,)


def _unlabelled(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    turns_given = value.get("conversations") is not None or value.get("messages") is not None
    if value.get("instruction") is not None or ("instruction" in value and not turns_given):
        return _unlabelled_instruction(value, sidecar)
    raw = _turn_list(value, "unlabelled")
    if isinstance(raw, Fault):
        if raw.code == "missing_conversations":
            return Fault("missing_instruction", missing(value, "instruction"))
        return raw
    turns = read_turns(raw, sidecar)
    if isinstance(turns, Fault):
        return turns
    return check_order(turns, last="user") or (turns,)


def _unlabelled_instruction(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    instruction = value["instruction"]
    mapped = "instruction" in sidecar.columns.values()
    if mapped and isinstance(instruction, list) and len(instruction) == 1:
        value = {**value, "instruction": instruction[0]}  # a benchmark's `turns: ["the question"]`
    if fault := _not_text(value, ("instruction", "input")):
        return fault
    if value["instruction"] is None or is_empty(value["instruction"]):
        return Fault("missing_instruction", "`instruction` is empty; write the question, or remove the row")
    context = _context(value)
    if isinstance(context, Fault):
        return context
    return (instruction_messages(value["instruction"], value.get("input") or "", *context),)


def instruction_messages(
    instruction: str, extra: str, system: str | None, history: list[list[str]] | None
) -> list[dict[str, str]]:
    """The turns of an Alpaca prompt: [system], the history, and the instruction with its input after an empty line."""
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in history or []:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": f"{instruction}\n\n{extra}" if not is_empty(extra) else instruction}]


def _other_format(value: dict[str, Any], data_format: str) -> Fault | None:
    """Where none of the format's keys is there but another format's are."""
    for other, signs in _SIGNS.items():
        if other != data_format and signs & value.keys():
            keys = names_of(value)
            return Fault(
                "wrong_format",
                f"a row of the {other} format (it has {keys}), not of {data_format}; move it to data/raw/{other}",
            )
    return None


def _not_text(value: dict[str, Any], names: tuple[str, ...]) -> Fault | None:
    for name in names:
        if not isinstance(value.get(name), str | None):
            return Fault("wrong_type", f"`{name}` is {seen(value[name])}; it must be a text")
    return None


def _preferences(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    from ft_pipeline.tables.formats.preferences import convert_pair

    if not {"prompt", "chosen", "rejected"} & value.keys() and (other := _other_format(value, "preferences")):
        return other
    return convert_pair(value, sidecar)


CONVERTERS: dict[str, Converter] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "text": _text,
    "preferences": _preferences,
    "unlabelled": _unlabelled,
}
