"""An answer in pieces gives the same turn as the whole answer, and text is not held back longer than needed."""

import itertools
import json
from importlib.resources import files
from typing import Any

import pytest

from ft_pipeline.models.tool_calls import FAMILIES
from ft_pipeline.models.turn_stream import AnswerForm, Delta, TurnStream, read_whole
from ft_pipeline_tests.tiny import tiny_tokenizer

TOOLS = json.dumps([{"type": "function", "function": {"name": "track", "parameters": {}}}])
BY_NAME = {family.name: family for family in FAMILIES}
CALL = '<tool_call>\n{"name": "track", "arguments": {"order": 7}}\n</tool_call>'


def form(family: str | None = "hermes", *, begins_in_reasoning: bool = False) -> AnswerForm:
    control = ("<|im_end|>", "<|im_start|>", "<|channel|>", "<|message|>", "<|end|>")
    return AnswerForm(BY_NAME[family] if family else None, True, begins_in_reasoning, control, ("<|im_end|>",))


CASES: dict[str, tuple[AnswerForm, str, str, str, int]] = {
    "text": (form(), " Hello <b>you</b>. <|im_end|>", "Hello <b>you</b>.", "", 0),
    "call": (form(), CALL, "", "", 1),
    "text_and_calls": (form(), f"Let me see.\n\n{CALL}\n{CALL}<|im_end|>", "Let me see.", "", 2),
    "broken": (form(), "One <tool_call>\n{", "One <tool_call>\n{", "", 0),
    "reasoning": (form(), f"<think>\nHm <tool_call>.\n</think>\n\nWait: {CALL}", "Wait:", "Hm <tool_call>.", 1),
    "prefilled": (form(begins_in_reasoning=True), "Hm.\n</think>\n\nFine.", "Fine.", "Hm.", 0),
    "only_reasoning": (form(begins_in_reasoning=True), "Hm and", "", "Hm and", 0),
    "llama": (form("llama3_json"), '{"name": "track", "parameters": {"order": 7}}<|im_end|>', "", "", 1),
    "llama_text": (form("llama3_json"), "A {brace}.", "A {brace}.", "", 0),
    "llama_json": (form("llama3_json"), '{"a": 1}', '{"a": 1}', "", 0),
    "harmony": (
        form("openai"),
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Fine.",
        "Fine.",
        "Hm.",
        0,
    ),
    "unknown": (form(None), f"<think>Hm.</think>{CALL}", CALL, "Hm.", 0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces_of_any_size_give_the_whole_turn(name: str, size: int) -> None:
    answer_form, text, content, reasoning, calls = CASES[name]
    whole, read = read_whole(answer_form, text, TOOLS)
    assert (whole, len(read)) == (Delta(content, reasoning), calls)
    stream = TurnStream(answer_form, TOOLS)
    deltas = list(itertools.chain(*(stream.feed(text[begin : begin + size]) for begin in range(0, len(text), size))))
    last, streamed = stream.finish()
    deltas += last
    assert "".join(delta.content for delta in deltas) == content
    assert "".join(delta.reasoning for delta in deltas).strip() == reasoning
    assert streamed == read


def test_text_is_passed_on_at_once_and_a_possible_call_is_held_back() -> None:
    stream = TurnStream(form(), TOOLS)
    assert stream.feed("Hello you") == [Delta("Hello you")]
    assert stream.feed(" <tool") == []
    assert stream.feed("s>") == [Delta(" <tools>")]


def test_without_tools_no_calls_are_read() -> None:
    assert read_whole(form(), CALL, None) == (Delta(CALL), [])


@pytest.mark.parametrize(
    ("name", "family", "in_reasoning"),
    [("qwen2_5", "hermes", False), ("qwen3_5_think", "qwen3_xml", True), ("phi3", None, False)],
)
def test_the_form_of_a_template(name: str, family: str | None, in_reasoning: bool) -> None:
    tokenizer: Any = tiny_tokenizer((files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8"))
    found = AnswerForm.of(tokenizer)
    assert ((found.family.name if found.family else None), found.begins_in_reasoning) == (family, in_reasoning)
    assert found.writes_tools == (family is not None)
    assert "<|im_end|>" in found.stops and "<|im_end|>" in found.control_tokens
