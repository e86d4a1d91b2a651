"""Parts of a model, whether an adapter is on it or not."""

from typing import Any


def causal_lm(model: Any) -> Any:
    """The causal LM itself; an adapter's layers are inside it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def reads_all_before(model: Any) -> bool:
    """Whether each token of a causal LM attends to all before it: no sliding window, no chunks, no state in place of
    attention."""
    config = causal_lm(model).config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    limited = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    return not kinds and not limited and bool(getattr(config, "num_attention_heads", None))


def window_of(config: Any) -> int | None:
    """How many tokens a model of this config reads; None where it does not say."""
    positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions


def layers(model: Any) -> list[Any]:
    """Its decoder layers, in order, as transformers names them."""
    kinds = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in kinds]
