"""Training: one experiment's settings, base model, tokens, memory estimate, adapter and merged model."""

import json
from typing import Any

from ft_pipeline import plotting
from ft_pipeline.defs.column_lineage import TOKENS, column_lineage
from ft_pipeline.defs.training_chain import (
    adapter_spec,
    base_model_spec,
    beginning,
    experiment_phases,
    experiment_settings,
    experiment_spec,
    merged_model_spec,
    on_base,
    references,
    training_data_spec,
)
from ft_pipeline.execution.metadata import column_schema, picture, table
from ft_pipeline.execution.step import BuildContext, CheckSpec, SpecContext
from ft_pipeline.execution.step_asset import step
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.training.memory.estimate import describe_cpu_memory, estimate_experiment
from ft_pipeline.training.objectives.registry import OBJECTIVES

TOKEN_CHECKS = (
    CheckSpec("no_over_length", "No row is longer than max_length; nothing is truncated."),
    CheckSpec("every_turn_rendered", "The chat template renders every turn; dropped turns are reported."),
    CheckSpec("every_row_trains", "Every row has at least one trained token."),
    CheckSpec("stop_token_trained", "Every answer's stop token is trained, so that the model learns to stop."),
    CheckSpec("single_bos", "No row begins with two BOS tokens."),
    CheckSpec("padding_never_trained", "Labels are set by position, so padding that equals EOS is never trained."),
    CheckSpec("prompts_masked", "No token of a prompt is trained."),
    CheckSpec("ids_in_vocabulary", "The model has an embedding for every token."),
)


@step(
    stage="training",
    per_experiment=True,
    kinds={"yaml"},
    build=lambda making: _write_json(making, "experiment.json", making.spec.config),
    show=lambda artifact: {"settings": artifact.spec["config"]},
)
def experiment(at: SpecContext) -> Spec:
    """The experiment's YAML with all defaults: base model, objective, technique, hyperparameters, GPU, `start_from`."""
    return experiment_spec(at)


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment"],
    kinds={"huggingface"},
    show=lambda artifact: dict(artifact.summary),
)
def base_model(at: SpecContext) -> Spec:
    """The base model as plain safetensors: the embedded one, or one from a folder or a hub id."""
    settings = experiment_settings(at)
    return base_model_spec(settings.base_model, settings.revision)


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "distilled", "preferences", "text"],
    kinds={"huggingface", "parquet"},
    code_version="2",
    checks=TOKEN_CHECKS,
    show=lambda artifact: _show_training_data(artifact),
)
def training_data(at: SpecContext) -> Spec:
    """Tokens and labels of all rows that this experiment trains on. The token audit is its blocking checks."""
    return training_data_spec(at, experiment_settings(at))


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "training_data"],
    kinds={"json"},
    checks=[CheckSpec("fits", "The lower bound of the estimate fits the GPU that the experiment declares.")],
    build=lambda making: _estimate(making),
    show=lambda artifact: _show_memory(artifact),
)
def memory_estimate(at: SpecContext) -> Spec:
    """Memory that training needs for weights, gradients, optimizer states and activations, estimated without loading
    the model, from its config alone."""
    inputs = {"base_model": at.artifact("base_model"), "training_data": at.artifact("training_data")}
    settings = on_base(experiment_settings(at), inputs["base_model"])
    return Spec("memory_estimate", references(inputs), {"experiment": settings.model_dump(mode="json")})


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "training_data", "memory_estimate"],
    kinds={"pytorch", "huggingface"},
    gpu=True,
    show=lambda artifact: _show_adapter(artifact),
)
def adapter(at: SpecContext) -> Spec:
    """The trained weights (LoRA matrices, or all weights with `full`) of the best checkpoint by held-out loss."""
    at.passed("conversations")
    at.passed("memory_estimate")
    phases = experiment_phases(at)
    base, start = beginning(at, phases)
    return adapter_spec(at, phases[-1], at.passed("training_data"), base, start)


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "training_data", "adapter"],
    kinds={"pytorch", "huggingface"},
    gpu=True,
    code_version="2",
    checks=[
        CheckSpec(
            "merge_equivalence",
            "The merged model answers as the adapter does (KL per token), or better on held-out loss.",
        )
    ],
    show=lambda artifact: _show_merged(artifact),
)
def merged_model(at: SpecContext) -> Spec:
    """A plain Hugging Face model: the adapter is added to the base model's weights once, in 32 bit."""
    return merged_model_spec(at, experiment_settings(at), at.passed("training_data"), at.artifact("adapter"))


def _write_json(making: BuildContext, name: str, content: Any) -> dict[str, Any]:
    (making.out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return {}


def _estimate(making: BuildContext) -> dict[str, Any]:
    settings = ExperimentSettings.model_validate(making.spec.config["experiment"])
    model = json.loads((making.inputs["base_model"] / "config.json").read_text(encoding="utf-8"))
    longest = making.artifact("training_data").summary["audit"]["lengths"]["max"]
    params = making.artifact("base_model").summary["params"]
    estimate = estimate_experiment(settings, model, longest, settings.gpu.min_memory_gb or None, params=params)
    message = f"needs about {estimate['total_gb']:.1f} GB, at least {estimate['lower_bound_gb']:.1f} GB; "
    if settings.gpu.min_memory_gb:
        message += f"the declared GPU has {settings.gpu.min_memory_gb:g} GB"
    else:
        message += f"no GPU size declared; on a CPU {describe_cpu_memory(estimate['cpu_gb'])}"
    fits = estimate["possible"] is not False  # without a declared size there is nothing to compare with
    if not fits:
        message += ". To make it fit, " + "; or ".join(estimate["advice"])
    _write_json(making, "memory.json", estimate)
    return {**estimate, "checks": {"fits": {"passed": fits, "blocking": True, "message": message}}}


def _show_training_data(artifact: Artifact) -> dict[str, Any]:
    audit = artifact.summary["audit"]
    objective = artifact.spec["config"]["experiment"]["objective"]
    lineage = OBJECTIVES[objective].lineage_from(artifact.inputs)
    names = [name for name in TOKENS if name == "source" or name in lineage]
    return {
        "dagster/column_schema": column_schema([(name, *TOKENS[name]) for name in names]),
        "dagster/column_lineage": column_lineage(lineage),
        "rows": audit["rows"],
        "tokens": audit["tokens"],
        "trained_tokens": audit["trained_tokens"],
        "trained_share": audit["trained_share"],
        "lengths": audit["lengths"],
        "split_by_turn": audit["split_by_turn"],
        "reasoning": audit["reasoning"]["message"] or None,
        "histogram": picture(plotting.length_histogram(**audit["histogram"], title="Tokens per row"), "tokens per row"),
        "example": audit["example"]["marked"],
    }


def _show_memory(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    bar = plotting.memory_bar(summary["bytes"], summary["gpu_memory_gb"])
    cpu = {"on_a_cpu": describe_cpu_memory(summary["cpu_gb"])} if "cpu_gb" in summary else {}  # old artifacts lack it
    return {
        "total_gb": summary["total_gb"],
        **cpu,
        "advice": summary["advice"],
        "parts": picture(bar, "memory by part"),
    }


def _show_merged(artifact: Artifact) -> dict[str, Any]:
    shown = {key: value for key, value in artifact.summary.items() if key not in {"checks", "noise"}}
    noise = artifact.summary.get("noise")
    return {**shown, "quantisation_noise": table(noise)} if noise else shown


def _show_adapter(artifact: Artifact) -> dict[str, Any]:
    entries = [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [entry for entry in entries if "loss" in entry]
    held_out = [entry for entry in entries if "eval_loss" in entry]
    curve = plotting.loss_curve(
        [entry["step"] for entry in trained],
        [entry["loss"] for entry in trained],
        [entry["step"] for entry in held_out],
        [entry["eval_loss"] for entry in held_out],
    )
    rate = artifact.spec["config"]["experiment"]["training"]["learning_rate"]
    return {**artifact.summary, "learning_rate": rate, "loss_curve": picture(curve, "training and held-out loss")}
