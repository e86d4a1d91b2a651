"""The tokenizer of a model pads with a token that the model knows; unsuitable chat templates are refused."""

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import prompt_and_target
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline_tests.tiny import CHATML, tiny_model, tiny_tokenizer

ASKED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


@pytest.mark.parametrize(
    ("change", "pad_token"),
    [
        ({"pad_token": None}, "<|im_end|>"),
        ({"pad_token": None, "eos_token": None}, "<|im_start|>"),
        ({"pad_token": "<|late|>"}, "<|im_end|>"),  # added after the model's vocabulary
    ],
)
def test_padding_is_a_token_that_the_model_knows(change, pad_token, tmp_path):
    folder = tiny_model(tmp_path / "base")
    tokenizer = load_tokenizer(folder)
    vocabulary_size = len(tokenizer)
    for key, token in change.items():
        if token is None:
            setattr(tokenizer, key, None)
        else:
            tokenizer.add_special_tokens({key: token})
    tokenizer.save_pretrained(folder)
    loaded = load_tokenizer(folder)
    assert loaded.pad_token == pad_token and loaded.pad_token_id < vocabulary_size


def test_the_error_for_a_rejected_system_turn_says_what_to_leave_out():
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('No system turns') }}{% endif %}" + CHATML
    with pytest.raises(UserError, match=r"No system turns\. Leave out the system prompt"):
        prompt_and_target(tiny_tokenizer(refusing), [{"role": "system", "content": "Be brief."}, *ASKED])


def test_a_template_whose_prompt_lacks_the_answer_header_is_refused():
    """Otherwise it would be trained as part of each answer, and the model would write it before each answer."""
    with pytest.raises(UserError, match=r"writes '<\|im_start\|>assistant' before an answer"):
        prompt_and_target(tiny_tokenizer(CHATML.split("{% if add_generation_prompt")[0]), ASKED)
    without_header = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>{% endfor %}"
    with pytest.raises(UserError, match=r"writes '\[assistant\]' before an answer"):
        prompt_and_target(tiny_tokenizer(without_header), ASKED)
    mistral = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    )
    assert prompt_and_target(tiny_tokenizer(mistral), ASKED)[1] == " Hello.<|im_end|>"
