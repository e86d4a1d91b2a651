"""The card's code examples: how to load and prompt a released model."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.evaluation.model_kinds import TUNED

FOLDER = "path/to/this/folder"
"""The placeholder for the exported folder in the code."""
_QUESTION = "…"
_MERGED = """\
from transformers import pipeline

chat = pipeline("text-generation", model="{folder}")
messages = [{messages}]
print(chat(messages, max_new_tokens=128)[0]["generated_text"][-1]["content"])"""
_ADAPTER = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer{imports}

model = AutoPeftModelForCausalLM.from_pretrained("{folder}"{options})
tokenizer = AutoTokenizer.from_pretrained("{folder}")
messages = [{messages}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs.to(model.device), max_new_tokens=128)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""


def usage(kind: str, served: Mapping[str, Any]) -> list[str]:
    """Return Markdown paragraphs. served: `system_prompt`, and for a tuned model `technique` and `quantization`."""
    if kind not in TUNED:
        return ["`ft serve champion` serves it, with its prompt, as an OpenAI-compatible endpoint."]
    code = _adapter(served) if kind == "adapter" else _MERGED.format(folder=FOLDER, messages=_messages(served))
    notes = "; ".join(_notes(kind, served))
    return [f"```python\n{code}\n```", f"`ft export` writes the folder{f'; {notes}' if notes else ''}."]


def _notes(kind: str, served: Mapping[str, Any]) -> list[str]:
    notes = ["put the system prompt first, as above"] if served.get("system_prompt") else []
    if kind == "adapter" and served.get("quantization"):
        notes.append("load the base model in NF4, as above: it was trained and scored in NF4")
    return notes


def _adapter(served: Mapping[str, Any]) -> str:
    quantization = served.get("quantization")
    if not quantization:
        return _ADAPTER.format(folder=FOLDER, messages=_messages(served), imports="", options="")
    keys = {"load_in_4bit": True, **quantization}
    settings = ", ".join(f"{name}={value!r}" for name, value in keys.items())
    options = f", quantization_config=BitsAndBytesConfig({settings})"
    return _ADAPTER.format(folder=FOLDER, messages=_messages(served), imports=", BitsAndBytesConfig", options=options)


def _messages(served: Mapping[str, Any]) -> str:
    """Return the messages as code, without the prompt's text: the card shows it elsewhere, as text only."""
    system = '{"role": "system", "content": "…"}, ' if served.get("system_prompt") else ""
    return f'{system}{{"role": "user", "content": "{_QUESTION}"}}'
