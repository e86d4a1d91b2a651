"""Tuned models under a prompt variant (`prompting.tuned_with`): the names of their rows, and their prompts."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.settings.prompt_variant import PromptVariant

SEPARATOR = "+"
"""Between the form of a model and the variant in the name of a row: `merged+passages`."""
OF_THE_MODEL = ("technique", "quantization", "system_prompt", "reasoning")
"""Keys of a tuned model's scores that say how it is loaded, and the prompt that it was trained with. `reasoning` is
there only if reasoning is left out."""
VARIANTS = "prompting"
"""The key of a spec with the prompt variants."""


def row_name(form: str, variant: str) -> str:
    """Return the name of the row of a tuned model, in one of its forms, under a prompt variant."""
    return f"{form}{SEPARATOR}{variant}"


def variant_of(name: str) -> str | None:
    """Return the variant in the name of a tuned model's row; None if it has its own prompt only."""
    return name.partition(SEPARATOR)[2] or None


def variants_in(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the prompt variants in the config of scores, by name."""
    variants: dict[str, dict[str, Any]] = config.get(VARIANTS, {}).get("variants", {})
    return variants


def with_variant(served: Mapping[str, Any], name: str, variant: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a tuned model is loaded and prompted, with one variant more."""
    return {**served, VARIANTS: {"variants": {**variants_in(served), name: dict(variant)}}}


def prompt_settings(serving: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the settings with which a model is served that belong to a prompt variant."""
    return {key: value for key, value in serving.items() if key in PromptVariant.model_fields}


def looks_up(serving: Mapping[str, Any]) -> bool:
    """Return whether a prompt is different for each question: it has retrieved passages or examples."""
    return bool(serving.get("passages") or serving.get("examples") == "retrieved")


def with_own_prompt(variant: Mapping[str, Any], system_prompt: str | None) -> dict[str, Any]:
    """Return a variant for a tuned model. Without a system prompt in it, the one that the model was trained with
    stays."""
    return {**variant, "system_prompt": variant.get("system_prompt") or system_prompt}


def scored_with(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return how a row of tuned scores is loaded and prompted, as its champion record says it. config: of the scores;
    name: of the row in them. `scores` are computed from it again."""
    served = {key: config[key] for key in OF_THE_MODEL if key in config}
    variant = variant_of(name)
    if variant is None:
        return served
    return {**served, "variant": variant, VARIANTS: {"variants": {variant: variants_in(config)[variant]}}}


def serving_of(scored: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model is served, in one level: of `scored_with`, or of a prompt variant, which stays as it is."""
    if "variant" not in scored:
        return dict(scored)
    settings = variants_in(scored)[scored["variant"]]
    own = scored["system_prompt"]
    return {
        **{key: scored[key] for key in ("technique", "quantization", "reasoning", "variant") if key in scored},
        **with_own_prompt(settings, own),
        "trained_prompt": own,
    }


def without_variant(serving: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the same weights are loaded and prompted without the variant."""
    if "variant" not in serving:
        return dict(serving)
    served = {key: serving[key] for key in ("technique", "quantization", "reasoning") if key in serving}
    return {**served, "system_prompt": serving["trained_prompt"]}
