"""Masks: every assistant turn with its stop token, nothing else, whatever the template."""

from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import stop_strings
from ft_pipeline.training.tokens import MASKED, encode, render_conversation
from ft_pipeline_tests.tiny import tiny_tokenizer

TURNS = [
    ("My package is late.", "Sorry about the delay."),
    ("LF-12", "Thank you!\n\nI'll check."),
    ("And?", "Shipped ✓"),
]

# template of TRL → (its control tokens, the stop token, whether earlier turns are rendered otherwise)
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


def test_the_text_after_a_stop_token_is_not_trained():
    tokenizer = tiny_tokenizer()
    (row,) = encode(tokenizer, render_conversation(tokenizer, messages_of(TURNS[:2])))
    pairs = list(zip(row.input_ids, row.labels, strict=True))
    after_stop = [pairs[index + 1][1] for index, (token, _) in enumerate(pairs[:-1]) if token == tokenizer.eos_token_id]
    assert after_stop and set(after_stop) == {MASKED}
    assert row.input_ids[-1] == row.labels[-1] == tokenizer.eos_token_id


def test_an_answer_that_would_merge_with_the_prompt_is_tokenised_as_generation_does():
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


def test_a_missing_template_is_one_clear_error():
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
