"""Texts are embedded by a model that cannot run code, in a process of its own."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

from ft_pipeline.errors import UserError
from ft_pipeline.models.embeddings import _load
from ft_pipeline_tests.tiny import tiny_tokenizer

TEXTS = ["A parcel.", "Where can I change the delivery address of my order?", "", "The refund takes five days."]


@pytest.fixture
def bert(tmp_path):
    """A tiny random BERT with safetensors."""
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def embed(tmp_path):
    """Embeds in this process: one of its own would load torch each time."""
    folder = tmp_path / "loaded"
    folder.mkdir()
    return lambda model, texts: _load(str(model), None, folder).embed(texts)


def pool_with(folder, mode):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))


def token_vectors(folder, text):
    tokens = torch.tensor([tiny_tokenizer()(text)["input_ids"]])
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder)(input_ids=tokens).last_hidden_state[0].numpy()


@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        (None, lambda vectors: vectors.mean(0)),
        ("mean_tokens", lambda vectors: vectors.mean(0)),
        ("cls_token", lambda vectors: vectors[0]),
        ("lasttoken", lambda vectors: vectors[-1]),
    ],
)
def test_vectors_are_pooled_as_the_model_says_whatever_is_in_the_batch(bert, embed, mode, pool):
    if mode:
        pool_with(bert, mode)
    vectors = embed(bert, TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), 32)
    for text in (0, 1, 3):
        expected = pool(token_vectors(bert, TEXTS[text]))
        np.testing.assert_allclose(vectors[text], expected / np.linalg.norm(expected), atol=1e-5)


def test_other_poolings_are_refused(bert, embed):
    pool_with(bert, "max_tokens")
    with pytest.raises(UserError, match=r"needs the pooling 'max_tokens'\. Choose a model with mean_tokens"):
        embed(bert, TEXTS)


def test_long_texts_are_cut(bert, embed):
    assert embed(bert, ["word " * 5000]).shape == (1, 32)


def test_pickled_weights_and_unknown_models_are_refused(tmp_path, bert, embed):
    with pytest.raises(UserError, match="'no such model' is neither a folder nor a hub id"):
        embed("no such model", TEXTS)
    pickled = shutil.copytree(bert, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        embed(pickled, TEXTS)


@pytest.mark.long
def test_paraphrases_are_nearer_than_other_matters_in_the_embedded_model(embed):
    kettle, paraphrase, other = embed(
        "embedded",
        [
            "How do I return a kettle?\nPress Return in My Orders, then post it.",
            "I'd like to send back my kettle, what should I do?\nOpen My Orders, choose Return and mail the item.",
            "What is the capital of France?\nParis.",
        ],
    )
    assert kettle @ paraphrase > 0.9 > kettle @ other


@pytest.mark.long
def test_the_caller_does_not_load_torch(bert):
    code = f"""
import sys
from ft_pipeline.models.embeddings import open_embedder
with open_embedder({str(bert)!r}, None) as (embed, source):
    assert len(embed(["one"])) == 1
assert "torch" not in sys.modules, "torch"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
