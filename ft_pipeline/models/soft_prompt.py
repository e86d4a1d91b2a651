"""Prompt tuning: virtual tokens before a frozen model, read once as a key-value cache like any shared prefix.

PEFT puts them before the padding of each row, so that a row's answer would depend on the other rows of its batch. As a
prefix they come first. The padding is between them and the row's own tokens. It is masked, and positions do not count
it.
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


def read_learned_prompt(model: Any, prompt: Tensor) -> Any:
    """Return the key-value cache of the virtual tokens, for one row. `model` is frozen (PEFT's get_base_model)."""
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache(config=model.config)
    embeddings = prompt.detach().to(model.get_input_embeddings().weight.dtype)[None]
    model(inputs_embeds=embeddings, cache=cache, use_cache=True, logits_to_keep=1)
    return cache
