"""Alpaca rows: instruction, input, output, system prompt, history."""

from typing import Any

from ft_pipeline.tables.formats.base import Record, not_text, other_format
from ft_pipeline.tables.reading.describe import describe_empty, describe_value, missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import EMPTY_CHARS, is_empty


def convert_alpaca(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    instruction, answer, extra = value.get("instruction"), value.get("output"), value.get("input")
    plain = type(instruction) is str and type(answer) is str and (type(extra) is str or extra is None)
    if not plain and (fault := _alpaca_fault(value)):
        return fault
    if not instruction.strip(EMPTY_CHARS):  # type: ignore[union-attr]
        return Fault("missing_instruction", "`instruction` is empty; write the question, or remove the row")
    if not answer.strip(EMPTY_CHARS):  # type: ignore[union-attr]
        return Fault("empty_output", f"`output` is {describe_empty(answer)}; write the answer, or remove the row")
    if "system" not in value and "history" not in value:
        return instruction, extra or "", answer, None, None
    context = context_of(value)
    return context if isinstance(context, Fault) else (instruction, extra or "", answer, *context)


def _alpaca_fault(value: dict[str, Any]) -> Fault | None:
    if not {"instruction", "output"} & value.keys() and (fault := other_format(value, "alpaca")):
        return fault
    if fault := not_text(value, ("instruction", "input", "output")):
        return fault
    if value.get("instruction") is None:
        return Fault("missing_instruction", missing_message(value, "instruction"))
    if "output" not in value:
        return Fault("missing_output", missing_message(value, "output"))
    if value["output"] is None:
        return Fault("empty_output", "`output` is null; write the answer, or remove the row")
    return None


def context_of(value: dict[str, Any]) -> tuple[str | None, list[list[str]] | None] | Fault:
    """The optional system prompt and history of an instruction, or the fault in them."""
    if fault := not_text(value, ("system",)):
        return fault
    system, history = value.get("system"), value.get("history")
    history = None if history == "" else history  # an empty CSV cell
    if history is not None and not isinstance(history, list):
        return Fault("wrong_type", f"`history` is {describe_value(history)}; it must be a list of [question, answer]")
    for pair in history or []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(item, str) for item in pair)):
            return Fault(
                "wrong_type",
                f"`history` holds {describe_value(pair)}; it must be a list of [question, answer], both texts",
            )
        if any(is_empty(item) for item in pair):
            return Fault("empty_value", "`history` holds an empty turn; remove the pair")
    return (system if system and not is_empty(system) else None), (history or None)


def instruction_messages(
    instruction: str, extra: str, system: str | None, history: list[list[str]] | None
) -> list[dict[str, str]]:
    """The turns of an Alpaca prompt: [system], the history, and the instruction with its input after an empty line."""
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in history or []:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": f"{instruction}\n\n{extra}" if not is_empty(extra) else instruction}]
