"""Tiny random models whose tokenizer llama.cpp can convert: BPE over SentencePiece's spaces, with a token per byte."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ft_pipeline_tests.tiny import CHATML, SENTENCES, save_tiny

ARCHITECTURES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
SPECIAL = ["<unk>", "<s>", "<|im_end|>", "<|im_start|>"]


def spm_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: stop token `<|im_end|>`, no BOS before texts."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator([sentence.replace(" ", "▁") for sentence in SENTENCES], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        pad_token="<|im_end|>",
        add_prefix_space=False,
    )
    wrapped.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    wrapped.chat_template = CHATML
    return wrapped


def spm_model(folder: Path, *, architecture: str = "llama", seed: int = 0, hidden_size: int = 64) -> Path:
    """Save a two-layer model and its tokenizer to `folder`; same seed, same bytes. Rows are `hidden_size` long."""
    tokenizer = spm_tokenizer()
    make_config, make_model = ARCHITECTURES[architecture]
    config = make_config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = make_model(config).to(torch.bfloat16)
    return save_tiny(model, tokenizer, folder)
