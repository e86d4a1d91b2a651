"""Real tokenizers of other families: llama.cpp's tokens and logits are the model's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, SmolLM3Config, SmolLM3ForCausalLM

from ft_pipeline.gguf.convert import convert
from ft_pipeline.gguf.evaluated_model import EvaluatedModel
from ft_pipeline.models.base_model import fetch_model
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline_tests.evaluation.conftest import RecordingReporter
from ft_pipeline_tests.tiny import save_tiny

pytest.importorskip("llama_cpp_py_sync")
pytestmark = pytest.mark.long

PROMPT = "<|im_start|>user\nOrder 12345 — 3 May, 2024: où est-il? 世界 \U0001f600<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, a Llama."""
    folder = tmp_path_factory.mktemp("families") / "embedded"
    folder.mkdir()
    fetch_model("embedded", None, folder, RecordingReporter())
    return folder


def tiny_smollm3(embedded: Path, folder: Path) -> Path:
    """Save a random SmolLM3, whose last layer reads no positions, with the tokenizer of the embedded model."""
    tokenizer = AutoTokenizer.from_pretrained(embedded)
    config = SmolLM3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = SmolLM3ForCausalLM(config)
    return save_tiny(model.to(torch.bfloat16), tokenizer, folder)


@pytest.mark.parametrize("family", ["llama", "smollm3"])
def test_tokens_and_logits_are_the_models(embedded: Path, tmp_path: Path, family: str) -> None:
    folder = embedded if family == "llama" else tiny_smollm3(embedded, tmp_path / "model")
    convert(folder, tmp_path / "file.gguf", family)
    ids = load_tokenizer(folder)(PROMPT, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        expected = load_model(folder, "cpu", dtype=torch.float32)(torch.tensor([ids])).logits[0].numpy()
    with EvaluatedModel(tmp_path / "file.gguf", 256, exact=True) as model:
        assert model.tokenize_prompt(PROMPT) == ids
        np.testing.assert_allclose(model.logits(ids), expected, atol=2e-3)
