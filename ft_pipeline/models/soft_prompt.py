"""Prompt tuning: virtual tokens before the prompts of a frozen model, computed once as the cache of a shared prefix.

The padding of a row is between the virtual tokens and the row's own tokens. PEFT lets positions count it, so that a
row's answer would depend on the other rows of its batch. Here positions do not count padding.
"""

from typing import Any

from torch import Tensor


def learned_prompt(model: Any) -> Tensor | None:
    """Return the embeddings of the virtual tokens [tokens, width of the model]; None for a model without them."""
    configs = getattr(model, "peft_config", {})
    for name, config in configs.items():
        if config.is_prompt_learning:
            return model.prompt_encoder[name].embedding.weight
    return None


def virtual_token_count(model: Any) -> int:
    """Return the number of virtual tokens before each prompt; 0 for a model without them."""
    prompt = learned_prompt(model)
    return 0 if prompt is None else len(prompt)


def compute_prompt_cache(model: Any, prompt_embeddings: Tensor) -> Any:
    """Return the key-value cache of the virtual tokens, for one row. `model` is frozen (PEFT's get_base_model)."""
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache(config=model.config)
    inputs_embeds = prompt_embeddings.detach().to(model.get_input_embeddings().weight.dtype)[None]
    model(inputs_embeds=inputs_embeds, cache=cache, use_cache=True, logits_to_keep=1)
    return cache
