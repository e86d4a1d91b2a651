"""Training: one experiment's settings, base model, tokens, adapter and merged model."""

import json
from typing import Any

from ft_pipeline import pictures
from ft_pipeline.execution.metadata import picture
from ft_pipeline.execution.steps import Check, Inputs, Making, step, versions_of
from ft_pipeline.experiments import ExperimentSettings
from ft_pipeline.models.base_model import identify
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.training.memory import estimate_experiment

TOKEN_CHECKS = (
    Check("no_over_length", "No row is longer than max_length; nothing is truncated."),
    Check("every_turn_rendered", "The chat template writes every turn; none is lost unsaid."),
    Check("every_row_trains", "Every row has at least one trained token."),
    Check("stop_token_trained", "Every answer's stop token is trained, so that the model learns to stop."),
    Check("single_bos", "No row begins with two BOS tokens."),
    Check("padding_never_trained", "Labels are set by position, so padding that equals EOS is never trained."),
    Check("prompts_masked", "No token of a prompt is trained."),
    Check("ids_in_vocabulary", "The model has an embedding for every token."),
)


@step(
    stage="training",
    per_experiment=True,
    kinds={"yaml"},
    build=lambda making: _write_json(making, "experiment.json", making.spec.config),
    show=lambda artifact: {"settings": artifact.spec["config"]},
)
def experiment(at: Inputs) -> Spec:
    """The experiment as its YAML resolves: base model, objective, technique, hyperparameters, GPU."""
    settings = at.settings.model_dump(mode="json", exclude={"retrain"})  # when it is trained changes nothing of it
    return Spec("experiment", config={"name": at.experiment, **settings})


@step(
    stage="training", per_experiment=True, deps=["experiment"], kinds={"huggingface"}, show=lambda it: dict(it.summary)
)
def base_model(at: Inputs) -> Spec:
    """The untouched model as plain safetensors: the embedded one, a folder, or a hub id."""
    settings = experiment_settings(at)
    return base_model_spec(settings.base_model, settings.revision)


def base_model_spec(model: str, revision: str | None) -> Spec:
    """The spec of a base model; the teacher is resolved by it too."""
    return Spec("base_model", config=dict(identify(model, revision)), versions=versions_of("transformers", "gguf"))


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "distilled"],
    kinds={"huggingface", "parquet"},
    code_version="2",
    checks=TOKEN_CHECKS,
    show=lambda artifact: _show_training_data(artifact),
)
def training_data(at: Inputs) -> Spec:
    """Tokens and labels of every row that this experiment trains on, with the token audit as blocking checks."""
    settings = experiment_settings(at)
    inputs = {"conversations": at.passed("conversations"), "base_model": at.artifact("base_model")}
    if settings.data.weights.distilled > 0:
        inputs["distilled"] = at.passed("distilled")
    wanted = settings.model_dump(mode="json", include={"objective", "data", "training"})
    training = {key: wanted["training"][key] for key in ("max_length", "seed")}
    config = {"experiment": {**wanted, "training": training}}
    return Spec("training_data", references(inputs), config, versions_of("transformers", "tokenizers"))


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "training_data"],
    kinds={"json"},
    checks=[Check("fits", "The lower bound of the estimate fits the GPU that the experiment declares.")],
    build=lambda making: _estimate(making),
    show=lambda artifact: _show_memory(artifact),
)
def memory_estimate(at: Inputs) -> Spec:
    """What training will hold: weights, gradients, optimizer states, activations, from the model's config alone."""
    settings = experiment_settings(at)
    inputs = {"base_model": at.artifact("base_model"), "training_data": at.artifact("training_data")}
    return Spec("memory_estimate", references(inputs), {"experiment": settings.model_dump(mode="json")})


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "training_data", "memory_estimate"],
    kinds={"pytorch", "huggingface"},
    gpu=True,
    show=lambda artifact: _show_adapter(artifact),
)
def adapter(at: Inputs) -> Spec:
    """The LoRA matrices that training learned: the best checkpoint by held-out loss."""
    settings = experiment_settings(at)
    at.passed("conversations")
    at.passed("memory_estimate")
    inputs = {"training_data": at.passed("training_data"), "base_model": at.artifact("base_model")}
    keys = {"objective", "technique", "lora", "quantization", "training"}
    config = {"experiment": settings.model_dump(mode="json", include=keys)}
    versions = versions_of("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
    return Spec("adapter", references(inputs), config, versions, seed=settings.training.seed)


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "training_data", "adapter"],
    kinds={"pytorch", "huggingface"},
    gpu=True,
    checks=[
        Check(
            "merge_equivalence",
            "The merged model answers as the adapter does (KL per token), or better on held-out loss.",
        )
    ],
    show=lambda artifact: {key: value for key, value in artifact.summary.items() if key != "checks"},
)
def merged_model(at: Inputs) -> Spec:
    """The adapter summed into the weights once, in 32 bit: a plain Hugging Face model."""
    settings = experiment_settings(at)
    inputs = {
        "adapter": at.artifact("adapter"),
        "base_model": at.artifact("base_model"),
        "training_data": at.passed("training_data"),
    }
    keys = {"technique", "quantization", "merge", "lora", "training"}
    config = {"experiment": settings.model_dump(mode="json", include=keys)}
    return Spec(
        "merged_model", references(inputs), config, versions_of("torch", "transformers", "peft", "bitsandbytes")
    )


def experiment_settings(at: Inputs) -> ExperimentSettings:
    """The settings that `experiment` was materialized with, not what the YAML says by now."""
    config = {key: value for key, value in at.artifact("experiment").spec["config"].items() if key != "name"}
    return ExperimentSettings.model_validate(config)


def references(inputs: dict[str, Artifact]) -> dict[str, tuple[str, str]]:
    return {name: artifact.reference for name, artifact in inputs.items()}


def _write_json(making: Making, name: str, content: Any) -> dict[str, Any]:
    (making.out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return {}


def _estimate(making: Making) -> dict[str, Any]:
    settings = ExperimentSettings.model_validate(making.spec.config["experiment"])
    model = json.loads((making.inputs["base_model"] / "config.json").read_text(encoding="utf-8"))
    longest = making.artifact("training_data").summary["audit"]["lengths"]["max"]
    found = estimate_experiment(settings, model, longest, settings.gpu.min_memory_gb or None)
    declared = f"{settings.gpu.min_memory_gb:g} GB GPU" if settings.gpu.min_memory_gb else "no GPU size declared"
    message = f"about {found['total_gb']:.1f} GB, at the least {found['lower_bound_gb']:.1f} GB; {declared}"
    fits = found["possible"] is not False  # nothing to hold it against where no size is declared
    if not fits:
        message += ". " + " ".join(found["advice"])
    _write_json(making, "memory.json", found)
    return {**found, "checks": {"fits": {"passed": fits, "blocking": True, "message": message}}}


def _show_training_data(artifact: Artifact) -> dict[str, Any]:
    audit = artifact.summary["audit"]
    return {
        "rows": audit["rows"],
        "tokens": audit["tokens"],
        "trained_tokens": audit["trained_tokens"],
        "trained_share": audit["trained_share"],
        "lengths": audit["lengths"],
        "split_by_turn": audit["split_by_turn"],
        "reasoning": audit["reasoning"]["message"] or None,
        "histogram": picture(pictures.length_histogram(**audit["histogram"], title="Tokens per row"), "tokens per row"),
        "example": audit["example"]["marked"],
    }


def _show_memory(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    bar = pictures.memory_bar(summary["bytes"], summary["gpu_memory_gb"])
    return {"total_gb": summary["total_gb"], "advice": summary["advice"], "parts": picture(bar, "memory by part")}


def _show_adapter(artifact: Artifact) -> dict[str, Any]:
    entries = [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [entry for entry in entries if "loss" in entry]
    held_out = [entry for entry in entries if "eval_loss" in entry]
    curve = pictures.loss_curve(
        [entry["step"] for entry in trained],
        [entry["loss"] for entry in trained],
        [entry["step"] for entry in held_out],
        [entry["eval_loss"] for entry in held_out],
    )
    return {**artifact.summary, "loss_curve": picture(curve, "training and held-out loss")}
