"""Masks: with any template, exactly the assistant turns and their stop tokens are trained."""

import json
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import stop_strings
from ft_pipeline.training.tokens.chat_tokens import MASKED, encode, find_dropped_turns, render_conversation
from ft_pipeline_tests.tiny import tiny_tokenizer

TURNS = [
    ("My package is late.", "Sorry about the delay."),
    ("LF-12", "Thank you!\n\nI'll check."),
    ("And?", "Shipped ✓"),
]

# template of TRL → (its control tokens, the stop token, whether earlier turns are rendered differently)
TEMPLATES = {
    "qwen2_5": (["<|im_start|>", "<|im_end|>"], "<|im_end|>", False),
    "qwen3": (["<|im_start|>", "<|im_end|>"], "<|im_end|>", True),
    "llama3": (["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>", False),
    "gemma": (["<bos>", "<start_of_turn>", "<end_of_turn>"], "<end_of_turn>", False),
    "phi3": (["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>"], "<|end|>", False),
    "cohere": (
        ["<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"],
        "<|END_OF_TURN_TOKEN|>",
        False,
    ),
    "deepseekv3": (["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"], "<｜end▁of▁sentence｜>", None),
}


def tokenizer_with(name):
    control, stop, _ = TEMPLATES[name]
    tokenizer = tiny_tokenizer((files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8"))
    tokenizer.add_special_tokens({"additional_special_tokens": control})
    tokenizer.eos_token = stop
    if "<bos>" in control or "<BOS_TOKEN>" in control or "<|begin_of_text|>" in control:
        tokenizer.bos_token = control[0]
    return tokenizer


def messages_of(turns):
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def trained_texts(tokenizer, encoded):
    """The decoded runs of trained tokens of all rows."""
    texts = []
    for row in encoded:
        run = []
        for label in [*row.labels, MASKED]:
            if label != MASKED:
                run.append(label)
            elif run:
                texts.append(tokenizer.decode(run))
                run = []
    return texts


@pytest.mark.parametrize("name", TEMPLATES)
def test_real_templates_train_each_answer_with_its_stop_token(name):
    tokenizer = tokenizer_with(name)
    _, stop, split = TEMPLATES[name]
    rendered = render_conversation(tokenizer, messages_of(TURNS))
    encoded = encode(tokenizer, rendered)
    texts = trained_texts(tokenizer, encoded)
    assert len(texts) == 3
    for (_, answer), text in zip(TURNS, texts, strict=True):
        assert text.endswith(stop)
        assert text.removesuffix(stop).strip().endswith(answer)
        assert "package" not in text and "LF-12" not in text
    if split is not None:
        assert {row.split_by_turn for row in rendered} == {split}
        assert len(rendered) == (3 if split else 1)
    assert stop_strings(tokenizer)[0] == stop


TOOL_USE = [
    {"role": "user", "content": "Where is order 7?"},
    {"role": "assistant", "content": "track(7)"},
    {"role": "tool", "content": "parcel shipped Monday"},
    {"role": "assistant", "content": "It left on Monday.", "reasoning_content": "The tool says so"},
    {"role": "user", "content": "Thanks a lot"},
    {"role": "assistant", "content": "You are welcome.", "reasoning_content": "A polite end"},
]


@pytest.mark.parametrize(
    ("name", "tools", "left_out"), [("qwen2_5", True, (4, 6)), ("qwen3", True, ()), ("phi3", False, (4, 6))]
)
def test_tool_turns_and_reasoning_are_rendered_if_the_template_supports_them(name, tools, left_out):
    tokenizer = tokenizer_with(name)
    rendered = render_conversation(tokenizer, TOOL_USE)
    dropped = find_dropped_turns(TOOL_USE, rendered)
    assert dropped.turns == (() if tools else ("turn 3 (tool)",))
    assert (dropped.reasoning_turns, dropped.reasoning_left_out) == (2, left_out)
    texts = trained_texts(tokenizer, encode(tokenizer, rendered))
    assert len(texts) == 3 and not any("shipped" in text or "order 7" in text for text in texts)
    for text, thoughts in zip(texts[1:], ("The tool says so", "A polite end"), strict=True):
        assert (thoughts in text) == (not left_out)


TOOLS = json.dumps([{"type": "function", "function": {"name": "track", "description": "Where an order is"}}])
CALLING = [
    {"role": "user", "content": "Where is order 10400?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_0001", "name": "track", "arguments": '{"order":10400,"city":"Köln"}'}],
    },
    {"role": "tool", "content": "parcel shipped Monday", "tool_call_id": "call_0001", "name": "track"},
    {"role": "assistant", "content": "It left on Monday."},
]
JSON_CALL = '<tool_call>\n{"name": "track", "arguments": {"order": 10400, "city": "Köln"}}\n</tool_call><|im_end|>'
DEEPSEEK = [
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
]


@pytest.mark.parametrize(
    ("name", "control", "call"),
    [
        ("qwen2_5", ["<|im_end|>"], JSON_CALL),
        ("qwen3", ["<|im_end|>"], "<think>\n\n</think>\n\n" + JSON_CALL),
        ("llama3_2", ["<|eot_id|>"], '{"name": "track", "parameters": {"order": 10400, "city": "Köln"}}<|eot_id|>'),
        (
            "qwen3_5_nothink",
            ["<|im_end|>"],
            "<tool_call>\n<function=track>\n<parameter=order>\n10400\n</parameter>\n<parameter=city>\nKöln\n</parameter>\n"
            "</function>\n</tool_call><|im_end|>",
        ),
        (
            "deepseekv3_training",
            ["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", *DEEPSEEK],
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>track\n```json\n"
            '{"order": 10400, "city": "Köln"}\n'
            "```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
        ),
        (
            "gptoss",
            ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>"],
            ' to=functions.track<|channel|>commentary json<|message|>{"order": 10400, "city": "Köln"}<|call|>',
        ),
    ],
)
def test_a_call_is_trained_with_its_arguments_as_an_object(name, control, call):
    tokenizer = tiny_tokenizer((files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8"))
    tokenizer.add_special_tokens({"additional_special_tokens": control})
    tokenizer.eos_token = next(token for token in control if token in call[-len(token) :])
    tools = None if name.startswith("deepseek") else TOOLS  # its template writes calls, but not the tools
    rendered = render_conversation(tokenizer, CALLING, tools)
    assert find_dropped_turns(CALLING, rendered).turns == ()
    assert rendered[0].targets[0] == call and "It left on Monday." in rendered[-1].targets[-1]
    assert ("Where an order is" in rendered[0].text) == (tools is not None)
    assert "parcel shipped" not in "".join(rendered[-1].targets)
    texts = trained_texts(tokenizer, encode(tokenizer, rendered))
    assert len(texts) == 2 and "".join(texts[0].split()) == "".join(call.split())


def test_a_template_without_tools_or_calls_raises_a_clear_error():
    with pytest.raises(UserError, match="omits declared tools"):
        render_conversation(tiny_tokenizer(), [CALLING[0], CALLING[3]], TOOLS)
    with pytest.raises(UserError, match="omits the call of the tool 'track'"):
        render_conversation(tiny_tokenizer(), CALLING)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_turn_of_the_weight_zero_is_shown_and_not_trained(name):
    tokenizer = tokenizer_with(name)
    messages = messages_of(TURNS)
    messages[1]["weight"] = 0.0
    rendered = render_conversation(tokenizer, messages)
    texts = trained_texts(tokenizer, encode(tokenizer, rendered))
    assert len(texts) == 2 and not any("Sorry about the delay." in text for text in texts)
    assert "Sorry about the delay." in rendered[-1].text
    messages[5]["weight"] = 0.0
    rendered = render_conversation(tokenizer, messages)
    (text,) = trained_texts(tokenizer, encode(tokenizer, rendered))
    assert "I'll check." in text and "And?" not in rendered[-1].text
    assert find_dropped_turns(messages, rendered).turns == ()
    messages[3]["weight"] = 0.0
    with pytest.raises(UserError, match="no assistant turn to train on"):
        render_conversation(tokenizer, messages)


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "deepseekv3"])
def test_reasoning_inside_the_text_is_trained_or_reported_as_left_out(name):
    messages = [TOOL_USE[0], {"role": "assistant", "content": "<think>Look it up</think> It left on Monday."}]
    tokenizer = tokenizer_with(name)
    rendered = render_conversation(tokenizer, messages)
    (text,) = trained_texts(tokenizer, encode(tokenizer, rendered))
    assert "It left on Monday." in text
    dropped = find_dropped_turns(messages, rendered)
    assert dropped.turns == () and dropped.reasoning_turns == 1
    assert ("Look it up" in text) == (not dropped.reasoning_left_out) == (name != "deepseekv3")


def test_a_template_that_rejects_a_role_raises_a_clear_error():
    with pytest.raises(UserError, match="user, assistant, tool: "):
        render_conversation(tokenizer_with("gemma"), TOOL_USE[:4])


def test_a_system_turn_may_be_rendered_late_but_must_be_rendered():
    messages = [{"role": "system", "content": "Be brief."}, *messages_of(TURNS)]
    late = tiny_tokenizer(
        "{% for m in messages if m['role'] != 'system' %}{% if loop.last or loop.revindex == 2 %}"
        "{{ messages[0]['content'] if m['role'] == 'user' }}{% endif %}{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    assert find_dropped_turns(messages, render_conversation(late, messages)).turns == ()
    never = tiny_tokenizer("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}<|im_end|>{% endfor %}")
    assert find_dropped_turns(messages, render_conversation(never, messages)).turns == ("turn 1 (system)",)


def test_the_text_after_a_stop_token_is_not_trained():
    tokenizer = tiny_tokenizer()
    (row,) = encode(tokenizer, render_conversation(tokenizer, messages_of(TURNS[:2])))
    pairs = list(zip(row.input_ids, row.labels, strict=True))
    after_stop = [pairs[index + 1][1] for index, (token, _) in enumerate(pairs[:-1]) if token == tokenizer.eos_token_id]
    assert after_stop and set(after_stop) == {MASKED}
    assert row.input_ids[-1] == row.labels[-1] == tokenizer.eos_token_id


def test_prompt_and_answer_are_tokenized_separately_as_in_generation():
    tokenizer = tiny_tokenizer(
        "{% for m in messages %}{{ m['role'] }}:T{{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant:T{% endif %}"
    )
    (rendered,) = render_conversation(tokenizer, messages_of([("hi", "he capital")]))
    assert tokenizer.tokenize("The") == ["The"]  # across the seam T|he there is one token
    (row,) = encode(tokenizer, [rendered])
    prompt = tokenizer(rendered.text[: rendered.spans[0][0]], add_special_tokens=False)["input_ids"]
    assert row.input_ids[: len(prompt)] == prompt
    assert tokenizer.decode([label for label in row.labels if label != MASKED]) == "he capital<|im_end|>"


def test_a_conversation_without_an_answer_is_refused():
    with pytest.raises(UserError, match="assistant"):
        render_conversation(tiny_tokenizer(), [{"role": "user", "content": "hi"}])


def test_a_missing_chat_template_raises_a_clear_error():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        render_conversation(tokenizer, messages_of(TURNS))


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
    lambda text: text.strip()
)
TOKENIZER = tiny_tokenizer()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_any_conversation_trains_exactly_its_answers(turns):
    rendered = render_conversation(TOKENIZER, messages_of(turns))
    (row,) = encode(TOKENIZER, rendered)
    assert len(row.input_ids) == len(row.labels)
    assert all(label in (MASKED, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    answers = [f"{answer}<|im_end|>" for _, answer in turns]
    assert trained_texts(TOKENIZER, [row]) == answers
