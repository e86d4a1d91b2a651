"""What llama.cpp needs to serve a model as it was scored, and prompts with which its reading is checked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from ft_pipeline.release.export.served_folder import TEMPLATE_NAME, ServedFolder

SETTINGS_NAME = "llama_cpp.json"
"""The file in the served folder with the settings of our server."""
CACHED_TOKENS = 32_768
"""Up to this many tokens of several conversations are kept in memory at once."""
MAX_SLOTS = 4
"""Most requests that are answered at once."""
_QUESTION = {"role": "user", "content": "Is it 5 °C outside?\nI <b>wonder</b>."}
_ANSWER = {"role": "assistant", "content": "It is."}
_TOOL = {"type": "function", "function": {"name": "find", "description": "Find it", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class PromptProbe:
    """A conversation, and how the model reads it."""

    messages: list[dict[str, str]]
    tools: list[dict[str, Any]] | None
    token_ids: list[int]


def write_llama_cpp_settings(served: ServedFolder, name: str, gguf: Path) -> None:
    """Write the settings of the server to the served folder. name: the model's, as clients give it."""
    window = _window(served.path)
    slots = max(1, min(MAX_SLOTS, CACHED_TOKENS // window)) if window else 1
    settings = {
        "gguf": str(gguf.resolve()),
        "template": str(served.path / TEMPLATE_NAME),
        "alias": name,
        "context": window * slots,
        "slots": slots,
    }
    (served.path / SETTINGS_NAME).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def prompt_probes(served: ServedFolder) -> list[PromptProbe]:
    """Return conversations with the tokens that transformers makes of them."""
    return list(_probes(served))


def _probes(served: ServedFolder) -> Iterator[PromptProbe]:
    system = {"role": "system", "content": "Be brief."}
    conversations: list[list[dict[str, str]]] = [[_QUESTION], [system, _QUESTION], [_QUESTION, _ANSWER, _QUESTION]]
    for messages in conversations:
        for tools in (None, [_TOOL]) if served.form.writes_tools else (None,):
            try:
                ids = served.tokenizer.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=True, return_dict=False
                )
            except TemplateError:
                continue  # the template takes no system prompt
            yield PromptProbe(messages, tools, list(ids))


def _window(folder: Path) -> int:
    """Return the number of tokens that the model can read; 0 if its config does not say it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("text_config", config).get("max_position_embeddings") or 0
