"""Combinations of settings that are invalid in an experiment: a rule for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from ft_pipeline.settings.distill import OWN_PROMPT
from ft_pipeline.settings.objectives import objective_rules, objective_sections

if TYPE_CHECKING:
    from ft_pipeline.settings.experiment import ExperimentSettings

Violation = tuple[str, str] | None
"""Result of a rule: (key to change, message), or None if the settings keep the rule."""


@dataclass(frozen=True)
class _Use:
    """The techniques or the objective that use a section. Under all others, the section must have its defaults."""

    section: str
    key: Literal["technique", "objective"]
    values: Sequence[str]
    """The values of `key` that use it. A message recommends the first."""
    why_not: str
    """What others do, after their name."""


_USES = (
    _Use("quantization", "technique", ("qlora",), "uses no 4-bit base"),
    _Use("lora", "technique", ("lora", "qlora"), "trains no LoRA matrices"),
    _Use("prompt_tuning", "technique", ("prompt_tuning",), "has no virtual tokens"),
)


def _is_changed(section: BaseModel, name: str) -> bool:
    """Whether a part of a section differs from its default."""
    return bool(getattr(section, name) != type(section).model_fields[name].default)


def _sections_for_what_uses_them(settings: "ExperimentSettings") -> Violation:
    of_objectives = [
        _Use(section, "objective", (name,), objective_rules()[name].others)
        for section, name in objective_sections().items()
    ]
    for use in (*_USES, *of_objectives):
        value = getattr(settings, use.key)
        if value not in use.values and _is_changed(settings, use.section):
            fix = f"Remove `{use.section}`, or set `{use.key}: {use.values[0]}`."
            return use.section, f"{use.key} {value!r} {use.why_not}. {fix}"
    return None


def _prompt_tuning_from_base_model_with_sft(settings: "ExperimentSettings") -> Violation:
    if settings.technique != "prompt_tuning":
        return None
    if settings.start_from is not None:
        return (
            "start_from",
            "technique 'prompt_tuning' starts from the base model. Remove `start_from`, or set `technique: lora`.",
        )
    reason = objective_rules()[settings.objective].no_prompt_tuning
    if not reason:
        return None
    return (
        "objective",
        f"objective {settings.objective!r} does not work with technique 'prompt_tuning': {reason}. Set "
        "`technique: lora`.",
    )


def _no_prompt_tuning_with_padding_free(settings: "ExperimentSettings") -> Violation:
    if settings.technique != "prompt_tuning" or not settings.training.padding_free:
        return None
    return (
        "training.padding_free",
        "technique 'prompt_tuning' puts its prompt before each row, but padding_free joins the rows of a batch. "
        "Remove `training.padding_free`.",
    )


def _token_budget_holds_a_row(settings: "ExperimentSettings") -> Violation:
    budget, longest = settings.training.tokens_per_batch, settings.training.max_length
    if budget is None or budget >= longest:
        return None
    return (
        "training.tokens_per_batch",
        f"training.tokens_per_batch is {budget}, but a row may have {longest} tokens (training.max_length). Set it to "
        f"{longest} or more.",
    )


def _token_budget_counts_every_token(settings: "ExperimentSettings") -> Violation:
    reasons = [
        *(["the learned prompt of each row"] if settings.technique == "prompt_tuning" else []),
        *(["the answers, which have no length yet"] if objective_rules()[settings.objective].draws_answers else []),
    ]
    if settings.training.tokens_per_batch is None or not reasons:
        return None
    return (
        "training.tokens_per_batch",
        f"training.tokens_per_batch does not count {reasons[0]}. Remove it, and set per_device_train_batch_size.",
    )


def _no_neftune_with_padding_free(settings: "ExperimentSettings") -> Violation:
    if settings.training.neftune_noise_alpha is None or not settings.training.padding_free:
        return None
    return (
        "training.neftune_noise_alpha",
        "training.neftune_noise_alpha depends on the length of a row, but padding_free joins the rows of a batch. "
        "Remove one of the two.",
    )


def _no_attention_setting_with_padding_free(settings: "ExperimentSettings") -> Violation:
    name = settings.training.attn_implementation
    if name is None or not settings.training.padding_free:
        return None
    return (
        "training.padding_free",
        f"training.padding_free has its own attention. Remove it, or remove `attn_implementation: {name}`.",
    )


def _pure_bf16_for_full_only(settings: "ExperimentSettings") -> Violation:
    if not settings.training.pure_bf16:
        return None
    if settings.technique != "full":
        return (
            "training.pure_bf16",
            f"technique {settings.technique!r} trains 32-bit weights. Remove `training.pure_bf16`, or set "
            "`technique: full`.",
        )
    if settings.training.optim == "adamw_torch":
        return "training.pure_bf16", "training.pure_bf16 needs an 8-bit optimizer. Set `optim: paged_adamw_8bit`."
    return None


def _merge_settings_for_adapters_only(settings: "ExperimentSettings") -> Violation:
    if settings.technique == "qlora" or not _is_changed(settings, "merge"):
        return None
    if settings.technique == "lora":
        if settings.merge.mode == "dequantized":
            return None
        return "merge.mode", "technique 'lora' has only one merge mode. Remove `merge.mode`."
    return "merge", f"technique {settings.technique!r} has nothing to merge. Remove `merge`."


def _no_shown_reasoning_of_drawn_answers(settings: "ExperimentSettings") -> Violation:
    if not objective_rules()[settings.objective].draws_answers or settings.data.reasoning != "keep":
        return None
    return (
        "data.reasoning",
        f"objective {settings.objective!r} trains answers that the model draws with its own reasoning. Remove "
        "`data.reasoning: keep`.",
    )


def _distill_settings_for_distill_only(settings: "ExperimentSettings") -> Violation:
    if settings.objective == "distill" and settings.distill is None:
        return (
            "objective",
            "objective 'distill' needs a teacher. Add `distill: {variant: NAME}` with a variant of prompting.variants.",
        )
    if settings.distill is None:
        return None
    if settings.objective != "distill":
        problem = f"objective {settings.objective!r} has no teacher"
        return "distill", f"{problem}. Remove `distill`, or set `objective: distill`."
    if settings.distill.teacher == OWN_PROMPT and settings.distill.variant is None:
        return (
            "distill.variant",
            "`distill.teacher: own_prompt` needs `distill.variant`. Name a variant of prompting.variants.",
        )
    return None


def _own_answers_of_lora_or_full_on_one_gpu(settings: "ExperimentSettings") -> Violation:
    if not settings.is_on_policy:
        return None
    if settings.technique == "prompt_tuning":
        return (
            "distill.on_policy",
            "technique 'prompt_tuning' does not learn from its own answers. Remove `distill.on_policy`, or set "
            "`technique: lora`.",
        )
    if settings.gpu.count > 1:
        return "gpu.count", f"distill.on_policy trains on one GPU, not on {settings.gpu.count}. Set `gpu.count: 1`."
    return None


def _source_weights_for_sft_only(settings: "ExperimentSettings") -> Violation:
    rows = objective_rules()[settings.objective].rows
    if rows is None or not _is_changed(settings.data, "weights"):
        return None
    return "data.weights", f"objective {settings.objective!r} trains only on {rows}. Remove `data.weights`."


def _no_reasoning_in_raw_text(settings: "ExperimentSettings") -> Violation:
    if settings.objective != "cpt" or settings.data.reasoning == "train":
        return None
    return "data.reasoning", "objective 'cpt' trains on raw text, which has no turns. Remove `data.reasoning`."


def _no_long_rows_in_blocks(settings: "ExperimentSettings") -> Violation:
    if settings.objective != "cpt" or settings.training.long_rows == "fail":
        return None
    return (
        "training.long_rows",
        "objective 'cpt' divides its texts into blocks, so that no row is too long. Remove `training.long_rows`.",
    )


def _some_training_rows(settings: "ExperimentSettings") -> Violation:
    weights = settings.data.weights
    if weights.human or weights.distilled:
        return None
    return (
        "data.weights",
        "data.weights.human and data.weights.distilled are 0, so there are no training rows. Raise one of them.",
    )


def _shares_for_sft_only(settings: "ExperimentSettings") -> Violation:
    chosen = {
        "learning_curve": settings.learning_curve,
        "data.share": settings.data.share < 1,
        "data.without": settings.data.without,
        "data.relabels": settings.data.relabels,
    }
    key = next((name for name, value in chosen.items() if value), None)
    if settings.objective == "sft" or key is None:
        return None
    return key, f"objective {settings.objective!r} trains on all its rows. Remove `{key}`, or set `objective: sft`."


def _learning_curve_in_whole_percent(settings: "ExperimentSettings") -> Violation:
    for share in settings.learning_curve:
        if not 0.01 <= share <= 0.99:
            return (
                "learning_curve",
                f"learning_curve contains {share:g}. Use shares from 0.01 to 0.99 (1 is the experiment itself).",
            )
        if abs(100 * share - round(100 * share)) > 1e-6:
            return (
                "learning_curve",
                f"learning_curve contains {share:g}. Use whole percentages, such as {round(100 * share) / 100:g}.",
            )
        if settings.learning_curve.count(share) > 1:
            return "learning_curve", f"learning_curve contains {share:g} twice. List each share once."
    return None


RULES: tuple[Callable[["ExperimentSettings"], Violation], ...] = (
    _sections_for_what_uses_them,
    _prompt_tuning_from_base_model_with_sft,
    _no_prompt_tuning_with_padding_free,
    _token_budget_holds_a_row,
    _token_budget_counts_every_token,
    _no_neftune_with_padding_free,
    _no_attention_setting_with_padding_free,
    _pure_bf16_for_full_only,
    _merge_settings_for_adapters_only,
    _no_shown_reasoning_of_drawn_answers,
    _distill_settings_for_distill_only,
    _own_answers_of_lora_or_full_on_one_gpu,
    _source_weights_for_sft_only,
    _some_training_rows,
    _no_long_rows_in_blocks,
    _no_reasoning_in_raw_text,
    _shares_for_sft_only,
    _learning_curve_in_whole_percent,
)
"""An experiment is refused with the first violation."""
