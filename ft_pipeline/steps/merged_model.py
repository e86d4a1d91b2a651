"""The base model with the adapter added to its weights: a plain Hugging Face model.

**Look here** to see whether merging changed its answers.

**If `merge_equivalence` is red:** the merged model answers differently from the adapter. Release the adapter instead
(`ft promote NAME/adapter`).
"""

from functools import partial
from typing import Annotated, Any

from ft_pipeline.job import Job
from ft_pipeline.page import Page, Table, Words
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.step import CheckSpec, SpecContext, StepConfig, only, spec_of, step_of
from ft_pipeline.steps.shared.phases import experiment_settings, settings_for_base
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

NUMBERS = {"mode", "kl_adapter_merged", "max_kl", "adapter_heldout_loss", "compared_tokens"}
"""What the page shows of the summary."""


class Config(StepConfig):
    """The settings of training that say what is merged, and those of the merge."""

    experiment: Annotated[
        ExperimentSettings, only("objective", "technique", "quantization", "merge", "lora", "training", "distill")
    ]


def spec(context: SpecContext) -> Spec:
    """Return the spec of this experiment's merged model."""
    settings, data = experiment_settings(context), context.checked_artifact("training_data")
    return merged_model_spec(context, settings, data, context.artifact("adapter"))


def merged_model_spec(context: SpecContext, settings: ExperimentSettings, data: Artifact, adapter: Artifact) -> Spec:
    """Return the spec of one phase's merged model, on the base model that its adapter was trained on."""
    base = base_model_of(context, adapter)
    return spec_of(
        "merged_model",
        {"adapter": adapter, "base_model": base, "training_data": data},
        Config(experiment=settings_for_base(settings, base)),
        libraries=("torch", "transformers", "peft", "bitsandbytes"),
    )


def base_model_of(context: SpecContext, adapter: Artifact) -> Artifact:
    """Return the base model that an adapter's manifest names, so that a user cannot mismatch the two."""
    return context.store.require(*adapter.inputs["base_model"])


def run(job: Job) -> dict[str, Any]:
    """Merge in each mode that the settings allow, measure each on the validation rows, and keep the best.

    Summary: mode, kl_adapter_merged, max_kl, passed, adapter_heldout_loss, heldout_rows (of the losses),
    compared_tokens and compared_rows (of the KL), computed_in, candidates, checks, and for qlora noise.
    """
    from ft_pipeline.training.merging import merge

    settings = Config.of(job).experiment
    if settings.technique == "full":
        return merge.link_full_model(job)
    if settings.technique == "prompt_tuning":
        return merge.write_unmerged(job)
    held_out = merge.held_out_rows(job)
    adapter = held_out.load_and_measure(partial(merge.load_adapter_model, job, settings))
    job.report.log(
        f"adapter: held-out loss {adapter.loss:.4f} nats per token on {adapter.rows:,} of {len(held_out.rows):,} "
        f"validation rows; {len(adapter.states):,} tokens of {adapter.compared_rows} rows are compared"
    )
    base = merge.measure_base(job, settings, held_out)
    merged, results = {}, {}
    modes = merge.modes(settings)
    for number, mode in enumerate(modes, 1):
        merged[mode] = merge.merge_and_measure(job, settings, mode, held_out)
        base_loss = base.loss if base is not None and mode == "w16" else None
        results[mode] = merge.check_merge(merged[mode], adapter, base_loss, settings, job.device)
        job.report.log(f"merged ({mode}): {merge.describe(results[mode])}")
        job.report.progress(number, len(modes), kl=results[mode].kl)
    best = min(results, key=lambda mode: (not results[mode].passed, results[mode].heldout_loss))
    merge.keep(job, best)
    measured = {"adapter": adapter, "merged": merged[best]} | ({"base": base} if base is not None else {})
    return {
        **merge.summarize(best, results, adapter, settings, job.device),
        **merge.measure_noise(job, settings, measured, held_out),
    }


def page(artifact: Artifact) -> Page:
    """How well each merge keeps the answers of the adapter."""
    summary = artifact.summary
    candidates = [{"merge": name, **values} for name, values in summary.get("candidates", {}).items()]
    return {
        "equivalence": Words(summary["checks"]["merge_equivalence"]["message"]),
        "candidates": Table(candidates) if candidates else None,
        "quantisation_noise": Table(summary["noise"]) if summary.get("noise") else None,
        **{key: value for key, value in summary.items() if key in NUMBERS},
    }


CHECKS = (
    CheckSpec(
        "merge_equivalence",
        "The merged model answers as the adapter does (KL per token), or better on held-out loss.",
    ),
)

STEP = step_of(
    __name__,
    stage="training",
    deps=("experiment", "base_model", "training_data", "adapter"),
    per_experiment=True,
    kinds=frozenset({"pytorch", "huggingface"}),
    gpu=True,
    code_version="2",
)
