"""Parts of a model, whether an adapter is on it or not."""

from typing import Any


def causal_lm(model: Any) -> Any:
    """The causal LM itself; an adapter's layers are inside it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layers(model: Any) -> list[Any]:
    """Its decoder layers, in order, as transformers names them."""
    kinds = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in kinds]
