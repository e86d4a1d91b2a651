"""Tiny random models of other architectures than Llama's, with the tokenizer of tiny.py."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ft_pipeline_tests.tiny import save_tiny, tiny_tokenizer

_LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
_MIXTURE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32, "final_logit_softcapping": 5.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "qwen2": {**_LLAMA, "tie_word_embeddings": True},
    "qwen3": {**_LLAMA, "head_dim": 32},
    "gemma2": {**_LLAMA, **_GEMMA},
    "gemma3_text": {**_LLAMA, **_GEMMA},
    "phi3": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": 32},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 200},
    "gpt_neox": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "word_embed_proj_dim": 64,
    },
    "olmo2": _LLAMA,
    "granite": {**_LLAMA, "logits_scaling": 4.0, "embedding_multiplier": 6.0, "attention_multiplier": 0.1},
    "smollm3": _LLAMA,
    "mixtral": {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**_LLAMA, **_MIXTURE, "num_experts": 4, "shared_expert_intermediate_size": 48},
    "qwen3_moe": {**_LLAMA, **_MIXTURE, "num_experts": 4, "head_dim": 16},
}
"""By transformers' model type."""


def tiny_model_of(kind: str, folder: Path, **keys: Any) -> Path:
    """Save a two-layer model of `kind` and its tokenizer to `folder`; `keys` go into its config. Same keys, same bytes.

    Biases and norms are random, too, so that a test notices when the code ignores one of them.
    """
    tokenizer = tiny_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    defaults = {"vocab_size": len(tokenizer), "initializer_range": 0.2, **ids}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **{**CONFIGS.get(kind, {}), **defaults, **keys})
        )
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return save_tiny(model.to(torch.bfloat16), tokenizer, folder)
