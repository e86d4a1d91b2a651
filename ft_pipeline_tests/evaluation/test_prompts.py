"""From test conversations to contexts and targets."""

from typing import Any

import pytest
from pydantic import ValidationError

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import make_items, select_test_rows
from ft_pipeline.evaluation.scoring.prompt_baseline import notes_on_system_turns
from ft_pipeline.evaluation.scoring.prompts import Prompt, render_items
from ft_pipeline.evaluation.scoring.tested_model import ModelUnderTest
from ft_pipeline.models.chat import render
from ft_pipeline.settings.prompt_variant import PromptVariant
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, conversation

ROWS = select_test_rows(CONVERSATIONS, None)


def rendered(tokenizer: Any, prompt: Prompt, **options: Any) -> list[Any]:
    options = {"name": "x", "window": 512, "max_new_tokens": 8} | options
    return render_items(tokenizer, make_items(ROWS), prompt, **options)


def test_every_assistant_turn_of_the_test_split_is_an_item() -> None:
    items = make_items(ROWS)
    assert len(items) == 4
    two_turn_items = [
        item for item in items if len(item.messages) > 2 or item.reference == "Please send your order number."
    ]
    assert len({item.group for item in two_turn_items}) == 1
    assert [item.id for item in two_turn_items] == [f"{two_turn_items[0].group}:1", f"{two_turn_items[0].group}:3"]
    assert two_turn_items[1].messages[1]["content"] == "Please send your order number."


def test_max_test_rows_takes_the_first_rows_by_hash() -> None:
    assert select_test_rows(CONVERSATIONS, 2) == ROWS[:2]
    assert select_test_rows(list(reversed(CONVERSATIONS)), 2) == ROWS[:2]
    with pytest.raises(UserError, match="None of the 1 conversations is in the test split"):
        select_test_rows([conversation("train", "a", "b")], None)


def test_context_and_target_are_the_text_of_the_template(tokenizer: Any) -> None:
    for rendered_item in rendered(tokenizer, Prompt(system_prompt="Be brief.")):
        messages = [{"role": "system", "content": "Be brief."}, *rendered_item.item.messages]
        assert render(tokenizer, messages, add_generation_prompt=False).startswith(
            rendered_item.context + rendered_item.target
        )
        assert rendered_item.target == rendered_item.item.reference + "<|im_end|>"
        assert rendered_item.context.endswith("<|im_start|>assistant\n")


def test_examples_come_from_the_train_split_and_are_fixed(tokenizer: Any) -> None:
    prompt = Prompt.from_variant({"system_prompt": None, "few_shot": 2}, CONVERSATIONS, seed=0)
    assert prompt == Prompt.from_variant({"system_prompt": None, "few_shot": 2}, list(reversed(CONVERSATIONS)), seed=0)
    train = [tuple(row["messages"]) for row in CONVERSATIONS if row["split"] == "train"]
    assert sorted(map(str, prompt.examples)) == sorted(map(str, train))
    heads = {rendered_item.context.split("<|im_start|>user\n")[1] for rendered_item in rendered(tokenizer, prompt)}
    assert len(heads) == 1
    with pytest.raises(UserError, match="few_shot is 3"):
        Prompt.from_variant({"system_prompt": None, "few_shot": 3}, CONVERSATIONS, seed=0)


OWN_SYSTEM = ({"role": "system", "content": "Rhyme."}, {"role": "user", "content": "Where is my order?"})


def test_a_system_turn_of_a_conversation_has_priority_unless_it_is_replaced() -> None:
    kept, replaced = (
        Prompt.from_variant({"system_prompt": "Be brief.", "replace_system": replace}, CONVERSATIONS, seed=0)
        for replace in (False, True)
    )
    assert [turn["content"] for turn in kept.prepend_to(OWN_SYSTEM)] == ["Rhyme.", "Where is my order?"]
    assert [turn["content"] for turn in replaced.prepend_to(OWN_SYSTEM)] == ["Be brief.", "Where is my order?"]
    assert [turn["content"] for turn in replaced.prepend_to(OWN_SYSTEM[1:])] == ["Be brief.", "Where is my order?"]


def test_passages_are_added_to_the_system_prompt_that_is_used() -> None:
    texts = ["Orders leave our warehouse on Mondays.", "Lamps have a warranty of two years."]
    kept, replaced = (
        Prompt.from_variant(
            {"system_prompt": "Be brief.", "replace_system": replace, "passages": 1}, CONVERSATIONS, 0, texts
        )
        for replace in (False, True)
    )
    assert kept.prepend_to(OWN_SYSTEM)[0]["content"].startswith("Rhyme.\n\n")
    assert replaced.prepend_to(OWN_SYSTEM)[0]["content"].startswith("Be brief.\n\n")
    for prompt in (kept, replaced):
        assert sum(text in prompt.prepend_to(OWN_SYSTEM)[0]["content"] for text in texts) == 1


def test_replacing_needs_a_system_prompt_and_is_in_a_spec_only_if_it_is_on() -> None:
    with pytest.raises(ValidationError, match="`replace_system` needs `system_prompt`"):
        PromptVariant(replace_system=True)
    assert "replace_system" not in PromptVariant(system_prompt="Be brief.").model_dump(mode="json")
    assert (
        PromptVariant(system_prompt="Be brief.", replace_system=True).model_dump(mode="json")["replace_system"] is True
    )


def test_a_system_prompt_that_is_not_used_everywhere_is_mentioned() -> None:
    rows = [{"messages": OWN_SYSTEM}, {"messages": OWN_SYSTEM[1:]}]
    models = [
        ModelUnderTest(name, "prompt", Prompt(system_prompt=text, replace_system=replace))
        for name, text, replace in (
            ("plain", None, False),
            ("brief", "Be brief.", False),
            ("replaced", "Be brief.", True),
        )
    ]
    (note,) = notes_on_system_turns(rows, models)
    assert note.startswith("brief: its system prompt is not used in 1 of 2 test conversations")
    assert notes_on_system_turns(rows[1:], models) == []


def test_a_prompt_that_does_not_fit_the_window_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"few_shot: \d of 4 test answers need up to \d+ tokens .* the model has 40"):
        rendered(tokenizer, Prompt(), name="few_shot", window=40, max_new_tokens=30)
    assert len(rendered(tokenizer, Prompt(), window=None)) == 4


def test_a_turn_of_the_weight_zero_is_no_item_and_a_call_is_a_reference() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "track", "arguments": '{"order":7}'}]}
    messages = [
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "No idea.", "weight": 0.0},
        {"role": "user", "content": "Order 7"},
        call,
    ]
    (item,) = make_items([{"id": "r", "messages": messages, "tools": "[]"}])
    assert (item.id, item.reference, item.tools) == ("r:3", 'track {"order":7}', "[]")


def test_named_examples_are_shown_in_their_order_without_those_that_are_gone() -> None:
    first, second = (row["id"] for row in CONVERSATIONS if row["split"] == "train")
    for ids in ([second, first], [first, second], [second, "gone"]):
        prompt = Prompt.from_variant({"few_shot": 2, "example_rows": ids}, CONVERSATIONS, seed=0)
        by_id = {row["id"]: tuple(row["messages"]) for row in CONVERSATIONS}
        assert list(prompt.examples) == [by_id[name] for name in ids if name in by_id]


def test_a_test_row_is_never_an_example() -> None:
    tested = next(row["id"] for row in CONVERSATIONS if row["split"] == "test")
    with pytest.raises(UserError, match="None of the 1 rows that a prompt shows as examples is in the train split"):
        Prompt.from_variant({"few_shot": 1, "example_rows": [tested]}, CONVERSATIONS, seed=0)


def test_a_question_that_leaves_no_room_for_all_named_examples_gets_fewer(tokenizer: Any) -> None:
    ids = [row["id"] for row in CONVERSATIONS if row["split"] == "train"]
    prompt = Prompt.from_variant({"few_shot": 2, "example_rows": ids}, CONVERSATIONS, seed=0)
    lengths = [len(tokenizer(each.context + each.target)["input_ids"]) for each in rendered(tokenizer, prompt)]
    short = rendered(tokenizer, prompt, window=max(lengths) - 1, max_new_tokens=0)
    users = [each.context.count("<|im_start|>user") for each in short]
    longest = lengths.index(max(lengths))
    assert users[longest] == rendered(tokenizer, prompt)[longest].context.count("<|im_start|>user") - 1
    assert (
        "Can I return the shoes?" in short[longest].context
    )  # the first example goes, the one next to the question stays


def test_the_number_of_named_examples_is_said_once() -> None:
    with pytest.raises(ValidationError, match="`example_rows` names 1 fixed examples, but `few_shot` is 2"):
        PromptVariant(few_shot=2, example_rows=["a"])
    assert "example_rows" not in PromptVariant(few_shot=2).model_dump(mode="json")
