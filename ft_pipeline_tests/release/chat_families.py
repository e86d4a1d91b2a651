"""Chat templates of many families: those that trl has, and short ones of our own in the form of others."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ft_pipeline_tests.tiny import CHATML, tiny_tokenizer

_ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
)
_SYSTEM_FIRST = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}"
    "{% endif %}"
)
_CONTROL_TOKENS = [
    *("<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|im_sep|>", "<|endoftext|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
]


@dataclass(frozen=True)
class Family:
    """A chat template, and the tokens that it names."""

    template: str
    bos: str | None = None
    eos: str = "<|im_end|>"

    def tokenizer(self) -> Any:
        return _tokenizer(self.template, self.bos, self.eos)


@cache
def _tokenizer(template: str, bos: str | None, eos: str) -> Any:
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_special_tokens({"eos_token": eos, **({"bos_token": bos} if bos else {})})
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *_CONTROL_TOKENS]})
    return tokenizer


def of_trl(name: str) -> str:
    """Return a template that is bundled with trl."""
    package = find_spec("trl")
    assert package is not None
    assert package.origin is not None
    return (Path(package.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _by_role(user: str, assistant: str, system: str = "") -> str:
    """Return a template that writes each turn, called `m`, by the expression for its role."""
    return (
        f"{{% for m in messages %}}{{% if m.role == 'user' %}}{{{{ {user} }}}}{{% elif m.role == 'assistant' %}}"
        f"{{{{ {assistant} }}}}{{% else %}}{{{{ {system or user} }}}}{{% endif %}}{{% endfor %}}"
    )


OWN = {
    "chatml": Family(CHATML),
    "chatml_default": Family(
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are {{ helpful }}.<|im_end|>\n' }}{% endif %}"
        + CHATML
    ),
    "zephyr": Family(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "<s>",
        "</s>",
    ),
    "mistral_1": Family(
        "{{ bos_token }}{% for m in messages %}"
        + _ALTERNATE
        + "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + eos_token + ' ' }}{% endfor %}",
        "<s>",
        "</s>",
    ),
    "mistral_3": Family(
        "{{ bos_token }}"
        + _SYSTEM_FIRST
        + "{% for m in messages %}"
        + _ALTERNATE
        + "{% if m.role == 'user' %}{{ '[INST] ' + (system + '\n\n' if loop.last and system is defined else '') + "
        "m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
    ),
    "mistral_7": Family(
        "{{ bos_token }}"
        + _by_role(
            "'[INST]' + m.content + '[/INST]'",
            "m.content + eos_token",
            "'[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]'",
        ),
        "<s>",
        "</s>",
    ),
    "llama_2": Family(
        _SYSTEM_FIRST
        + "{% for m in messages %}"
        + _ALTERNATE
        + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + ('<<SYS>>\n' + system + '\n<</SYS>>\n\n' if loop.first "
        "and system is defined else '') + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
    ),
    "phi_4": Family(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    ),
    "vicuna": Family(
        "{{ bos_token }}"
        + _SYSTEM_FIRST
        + "{{ system if system is defined else 'A user talks to an assistant.' }}"
        + _by_role("' USER: ' + m.content", "' ASSISTANT: ' + m.content + eos_token")
        + "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}",
        "<s>",
        "</s>",
    ),
}
_BOS_OF_TRL = {"llama3": "<|begin_of_text|>", "llama3_1": "<|begin_of_text|>", "llama3_2": "<|begin_of_text|>"}
_EOS_OF_TRL = {"llama3": "<|eot_id|>", "llama3_1": "<|eot_id|>", "llama3_2": "<|eot_id|>", "phi3": "<|endoftext|>"}


def family(name: str) -> Family:
    """Return a family by the name of its template: one of our own, or a file of trl."""
    if name in OWN:
        return OWN[name]
    bos = _BOS_OF_TRL.get(name, "<bos>" if "gemma" in name else None)
    return Family(of_trl(name), bos, _EOS_OF_TRL.get(name, "<|im_end|>"))
