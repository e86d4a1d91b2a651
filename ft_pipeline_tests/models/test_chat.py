"""Prompts: system prompts, fixed examples, and where an answer begins."""

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import (
    pick_examples,
    prompt_and_target,
    render,
    stop_strings,
    stop_token_ids,
    with_prompt,
)
from ft_pipeline_tests.tiny import tiny_tokenizer
from ft_pipeline_tests.training.subject import conversation

QUESTION = {"role": "user", "content": "Where is it?"}
ANSWER = {"role": "assistant", "content": "Under way."}


def test_context_and_target_are_the_rendering_up_to_the_stop_token():
    tokenizer = tiny_tokenizer()
    context, target = prompt_and_target(tokenizer, [QUESTION, ANSWER])
    assert context == render(tokenizer, [QUESTION], add_generation_prompt=True)
    assert target == "Under way.<|im_end|>"


def test_a_template_that_changes_the_answer_raises_a_clear_error():
    tokenizer = tiny_tokenizer("{% for m in messages %}{{ m['content'][:3] }}{% endfor %}")
    with pytest.raises(UserError, match="changes the text"):
        prompt_and_target(tokenizer, [QUESTION, ANSWER])


def test_the_error_of_a_template_is_reported_with_the_roles():
    tokenizer = tiny_tokenizer("{{ raise_exception('no system turns') }}")
    with pytest.raises(UserError, match=r"roles user.*no system turns"):
        render(tokenizer, [QUESTION], add_generation_prompt=True)


def test_the_stop_token_is_the_end_of_a_turn():
    tokenizer = tiny_tokenizer()
    assert stop_strings(tokenizer) == ["<|im_end|>"]
    assert stop_token_ids(tokenizer) == [tokenizer.eos_token_id]


def test_a_system_prompt_and_examples_go_before_the_messages():
    prompted = with_prompt([QUESTION], "Be brief.", [[QUESTION, ANSWER]])
    assert [message["role"] for message in prompted] == ["system", "user", "assistant", "user"]
    unchanged = with_prompt([{"role": "system", "content": "Mine."}, QUESTION], "Be brief.", [])
    assert unchanged == [{"role": "system", "content": "Mine."}, QUESTION]
    assert with_prompt([QUESTION], None, []) == [QUESTION]


def rows():
    return [
        {**conversation(number, [(f"q{number}", f"a{number}")], "train"), "file": f"{number % 3}.jsonl"}
        for number in range(12)
    ]


def test_examples_are_fixed_single_turn_and_from_the_train_split():
    ineligible_rows = [
        conversation(50, [("test", "test")], "test"),
        conversation(51, [("validation", "validation")], "validation"),
        conversation(52, [("one", "two"), ("three", "four")], "train"),
    ]
    chosen = pick_examples(rows() + ineligible_rows, 6, 0)
    assert chosen == pick_examples(list(reversed(rows() + ineligible_rows)), 6, 0)
    assert chosen != pick_examples(rows(), 6, 1)
    questions = {example[0]["content"] for example in chosen}
    assert len(questions) == 6 and questions <= {row["messages"][0]["content"] for row in rows()}
    assert {int(question[1:]) % 3 for question in questions} == {0, 1, 2}
    with pytest.raises(UserError, match="few_shot is 13"):
        pick_examples(rows(), 13, 0)
