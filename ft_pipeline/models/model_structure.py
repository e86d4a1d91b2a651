"""Parts of a model, with or without an adapter."""

from typing import Any


def causal_lm(model: Any) -> Any:
    """Return the causal LM itself. It includes the layers of an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def attends_to_all_previous(model: Any) -> bool:
    """Whether each token of a causal LM attends to all previous tokens: no sliding window, no chunks, no state instead
    of attention."""
    config = causal_lm(model).config.get_text_config()
    other_kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    limited = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    return not other_kinds and not limited and bool(getattr(config, "num_attention_heads", None))


def context_window(config: Any) -> int | None:
    """Return how many tokens a model with this config can read; None if the config does not specify it."""
    positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions


def decoder_layers(model: Any) -> list[Any]:
    """Return the decoder layers of `model` in order. They are identified by the class names that transformers lists."""
    class_names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in class_names]
