"""The served chat template renders what scoring rendered: the model's own prompt, then the conversation."""

from typing import Any

import pytest

from ft_pipeline.models.chat import render, with_prompt
from ft_pipeline.release.export.chat_template import template_with_prompt
from ft_pipeline_tests.tiny import CHATML, tiny_tokenizer

WITH_A_DEFAULT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ 'SYSTEM default\n' }}"
    "{% endif %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
)
"""Like SmolLM2's: adds a default system prompt if there is none."""
OF_OTHER_VARIABLES = (
    "{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}"
    "{%- set loop_messages = messages[1:] -%}"
    "{%- else -%}{%- set loop_messages = messages -%}{%- endif -%}{{- bos_token }}"
    "{% for m in loop_messages %}"
    "{{ m.role }}|{{ (system ~ ' ') if loop.first and system is defined }}{{ m.content }}\n{% endfor %}"
)
"""Like Mistral's: the system prompt goes into the first turn."""
BEGINS_WITH_A_LINE = "\n  {% for m in messages %}\n{{ m.content }}\n  {% endfor %}\nend\n"
"""The template engine keeps or removes this white space, depending on its position."""
TEMPLATES = [CHATML, WITH_A_DEFAULT, OF_OTHER_VARIABLES, BEGINS_WITH_A_LINE]
SHOTS = [
    [{"role": "user", "content": "Is it {{ late }}?"}, {"role": "assistant", "content": 'It\'s \\n "5 °C" 😀\nyes'}],
    [{"role": "user", "content": "{% endfor %}"}, {"role": "assistant", "content": "\u2028'\\u0041' \\ end\\"}],
]
PROMPTS = [None, "Be brief.", "Say \"no\",\n\tthen 'yes' \\ {% raw %} {{ messages }} 😀 \x07 -%}"]
TALKS = [
    [{"role": "user", "content": "Where is it?"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Where is it?"}],
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("examples", [[], SHOTS])
@pytest.mark.parametrize("system_prompt", PROMPTS)
@pytest.mark.parametrize("replace", [False, True])
def test_the_template_renders_the_scored_prompts(
    tokenizer: Any, template: str, examples: list[list[dict[str, str]]], system_prompt: str | None, replace: bool
) -> None:
    for talk in TALKS:
        tokenizer.chat_template = template
        prompted = with_prompt(talk, system_prompt, examples, replace_system=replace)
        scored = render(tokenizer, prompted, add_generation_prompt=True)
        tokenizer.chat_template = template_with_prompt(template, system_prompt, examples, replace_system=replace)
        assert render(tokenizer, talk, add_generation_prompt=True) == scored


def test_without_a_prompt_the_template_is_unchanged() -> None:
    assert template_with_prompt(CHATML, None, []) == CHATML
