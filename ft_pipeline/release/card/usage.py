"""The card's code examples: how to load and prompt a released model."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.evaluation.tuned_variants import looks_up

FOLDER = "path/to/this/folder"
"""The placeholder for the exported folder in the code."""
_QUESTION = "…"
"""The placeholder for the user's question in the code."""
_MERGED = """\
from transformers import pipeline

chat = pipeline("text-generation", model="{folder}")
messages = [{messages}]
print(chat(messages, max_new_tokens=128)[0]["generated_text"][-1]["content"])"""
_ADAPTER = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer{imports}

model = AutoPeftModelForCausalLM.from_pretrained("{folder}"{options})
"""
_ADAPTER_WITH_BASE = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{imports}

base = AutoModelForCausalLM.from_pretrained("{folder}/base"{options})
model = PeftModel.from_pretrained(base, "{folder}")
"""
_ANSWER = """\
tokenizer = AutoTokenizer.from_pretrained("{folder}")
messages = [{messages}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs.to(model.device), max_new_tokens=128)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""

_CLASSIFIER = """\
import json
import numpy as np
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import TfidfVectorizer

model = json.load(open("{folder}/word_model.json", encoding="utf-8"))
arrays = load_file("{folder}/word_model.safetensors")
views = {{
    "words": {{"analyzer": "word", "token_pattern": r"(?u)\\b\\w+\\b", "ngram_range": (1, 2)}},
    "characters": {{"analyzer": "char_wb", "ngram_range": (2, 5)}},
}}
def answer(question):
    chosen = {{}}
    for number, (name, texts) in enumerate(model["models"].items()):
        parts = []
        for view, how in views.items():
            places = {{feature: place for place, feature in enumerate(texts[view])}}
            tfidf = TfidfVectorizer(**how, sublinear_tf=True, vocabulary=places)
            tfidf.idf_ = arrays[f"{{number}}.idf.{{view}}"].astype(float)
            parts.append(tfidf.transform([question]).toarray()[0])
        scores = arrays[f"{{number}}.weights"] @ np.concatenate(parts) + arrays[f"{{number}}.intercepts"]
        chosen[name] = texts["labels"][scores.argmax()]
    return chosen
print(answer("…"))"""
_SERVED_CLASSIFIER = (
    "`ft export` writes the folder: arrays (safetensors) and vocabularies (JSON). Loading them runs nothing of a file. "
    "`ft serve champion` serves it as an OpenAI-compatible endpoint, whose replies have the probability of each label "
    "(`choices[0].probabilities`). The question is what was said since the last answer."
)


def usage_paragraphs(kind: str, serving: Mapping[str, Any], *, base_is_exported: bool) -> list[str]:
    """Return Markdown paragraphs. serving: how to load and prompt the model, see ModelReference.serving.
    base_is_exported: whether the base model of an adapter is in the folder."""
    if kind == "classifier":
        return [f"```python\n{_CLASSIFIER.format(folder=FOLDER)}\n```", _SERVED_CLASSIFIER]
    if kind not in TUNED:
        return ["`ft serve champion` serves it, with its prompt, as an OpenAI-compatible endpoint."]
    code = (
        _adapter_code(serving, base_is_exported)
        if kind == "adapter"
        else _MERGED.format(folder=FOLDER, messages=_messages_code(serving))
    )
    notes = "; ".join(_notes(kind, serving))
    lacks = what_weights_lack(serving)
    exported = f"`ft export` writes the folder{f'; {notes}' if notes else ''}."
    return [f"```python\n{code}\n```", exported, *([lacks] if lacks else [])]


def what_weights_lack(serving: Mapping[str, Any]) -> str | None:
    """Return what a tuned model's prompt has that is not in its weights, and what to do, as a paragraph; None if there
    is nothing."""
    if "variant" not in serving:
        return None
    found = "nearest " if serving.get("examples") == "retrieved" else ""
    counted = [(serving.get("few_shot", 0), f"{found}example", " of the train split")]
    counted.append((serving.get("passages", 0), "nearest passage", " of data/raw/text"))
    parts = [f"the {f'{count} {noun}s' if count > 1 else noun}{origin}" for count, noun, origin in counted if count]
    if not parts:
        return None
    search = " They are found by BM25, with the words of all turns of the user." if looks_up(serving) else ""
    return (
        f"**Not in the weights:** {' and '.join(parts)}, which its prompt had for each question while it was scored. "
        "Without them it answers otherwise. `ft serve` adds them. An application that uses the exported files must add "
        f"them itself: `prompt.json` has the settings, and `ft export --with-texts` also writes the texts.{search}"
    )


def _notes(kind: str, serving: Mapping[str, Any]) -> list[str]:
    notes = ["put the system prompt first, as above"] if serving.get("system_prompt") else []
    if kind == "adapter" and serving.get("quantization"):
        notes.append("load the base model in NF4, as above: it was trained and scored in NF4")
    return notes


def _adapter_code(serving: Mapping[str, Any], base_is_exported: bool) -> str:
    imports = options = ""
    if quantization := serving.get("quantization"):
        arguments = ", ".join(f"{name}={value!r}" for name, value in {"load_in_4bit": True, **quantization}.items())
        imports, options = ", BitsAndBytesConfig", f", quantization_config=BitsAndBytesConfig({arguments})"
    loading = (_ADAPTER_WITH_BASE if base_is_exported else _ADAPTER) + _ANSWER
    return loading.format(folder=FOLDER, messages=_messages_code(serving), imports=imports, options=options)


def _messages_code(serving: Mapping[str, Any]) -> str:
    """Return the messages as code, without the system prompt's text: the card quotes it under "Intended use"."""
    system = '{"role": "system", "content": "…"}, ' if serving.get("system_prompt") else ""
    return f'{system}{{"role": "user", "content": "{_QUESTION}"}}'
