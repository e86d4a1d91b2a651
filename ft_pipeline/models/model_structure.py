"""Parts of a model, with or without an adapter."""

from typing import Any


def causal_lm(model: Any) -> Any:
    """Return the causal LM itself. It includes the layers of an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def reads_all_before(model: Any) -> bool:
    """Whether each token of a causal LM attends to all previous tokens: no sliding window, no chunks, no state instead
    of attention."""
    config = causal_lm(model).config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    limited = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    return not kinds and not limited and bool(getattr(config, "num_attention_heads", None))


def window_of(config: Any) -> int | None:
    """Return how many tokens a model with this config can read; None if the config does not specify it."""
    positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions


def layers(model: Any) -> list[Any]:
    """Return the decoder layers of `model` in order, identified by transformers' class names."""
    kinds = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in kinds]
