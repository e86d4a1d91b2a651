"""Training: one experiment's settings, base model, tokens, memory estimate, adapter and merged model."""

import json
from typing import Any

from ft_pipeline import small_plots
from ft_pipeline.audit.changes import flatten_settings
from ft_pipeline.defs.distill_specs import asks_a_teacher
from ft_pipeline.defs.gguf_specs import NOTHING, gguf_spec, wanted_types
from ft_pipeline.defs.table_pages import MATCHES_SCHEMA
from ft_pipeline.defs.training_chain import (
    adapter_spec,
    base_model_spec,
    experiment_spec,
    references,
    starting_model,
    training_data_spec,
)
from ft_pipeline.evaluation.comparison.own_targets import own_targets
from ft_pipeline.execution.step_asset import asset_of, step
from ft_pipeline.pace import format_duration
from ft_pipeline.page import Columns, Lineage, Picture, Points, Table, Words
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext
from ft_pipeline.steps.merged_model import STEP as MERGED_MODEL
from ft_pipeline.steps.phases import experiment_phases, experiment_settings, settings_for_base
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline.training.gguf.index import INDEX
from ft_pipeline.training.memory.estimate import describe_cpu_memory, estimate_experiment
from ft_pipeline.training.memory.rank_share import describe_ranks
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.reading_teacher import reading_teacher
from ft_pipeline.training.step_history import hindsight, measured_steps
from ft_pipeline.training.token_table import COLUMNS, token_table

TOKEN_CHECKS = (
    CheckSpec("no_over_length", "No row that trains is longer than max_length."),
    CheckSpec("every_turn_rendered", "The chat template renders every turn; dropped turns are reported."),
    CheckSpec("every_row_trains", "Every row has at least one trained token."),
    CheckSpec("stop_token_trained", "Every answer's stop token is trained, so that the model learns to stop."),
    CheckSpec("single_bos", "No row begins with two BOS tokens."),
    CheckSpec("padding_never_trained", "Labels are set by position, so padding that equals EOS is never trained."),
    CheckSpec("prompts_masked", "No token of a prompt is trained."),
    CheckSpec("calls_read_back", "Every trained call of a tool reads back equal from its tokens.", optional=True),
    CheckSpec("ids_in_vocabulary", "The model has an embedding for every token."),
    MATCHES_SCHEMA,
)
_LENGTHS = "tokens per row"
_TRAINING_NUMBERS = (
    *("best_eval_loss", "first_eval_loss", "train_loss", "best_step", "steps", "stopped_early"),
    *("trainable_params", "trainable_share", "tokens_per_second", "peak_memory_gb", "computed_in"),
)
"""What the page of an adapter shows of its summary."""


@step(
    stage="training",
    per_experiment=True,
    kinds={"yaml"},
    build=lambda build: _write_json(build, "experiment.json", build.spec.config),
    show=lambda artifact: _experiment_metadata(artifact),
)
def experiment(context: SpecContext) -> Spec:
    """The settings of one training: experiments/NAME.yaml with every default.

    **Look here** to see in what this experiment differs from the defaults.

    **If it fails:** a key or a value in the YAML is wrong. The error names the file and the line (docs/settings.md).
    """
    return experiment_spec(context)


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment"],
    kinds={"huggingface"},
    show=lambda artifact: {
        key: artifact.summary.get(key) or None for key in ("source", "params", "dtype", "trust_remote_code", "left_out")
    },
)
def base_model(context: SpecContext) -> Spec:
    """The model before training, as plain safetensors: from a hub, a folder, or the embedded one.

    **Look here** to see which model it is, from where, and how large.

    **If it fails:** the hub does not have it or wants a token, or the disk is full. The error says which.
    """
    settings = experiment_settings(context)
    return base_model_spec(context, settings.base_model, settings.revision, settings.chat_template_kwargs)


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "distilled", "preferences", "feedback", "text", "unlabelled"],
    kinds={"huggingface", "parquet"},
    code_version="2",
    may_use_gpu=asks_a_teacher,
    checks=TOKEN_CHECKS,
    show=lambda artifact: _training_data_metadata(artifact),
)
def training_data(context: SpecContext) -> Spec:
    """The rows that this experiment trains on, as tokens, and which of them are trained.

    **Look here** to read an example as the model reads it: what is between ⟦ and ⟧ is trained, the rest is only read.

    **If a check is red:** no training starts. The check names rows and the cause: a row that is longer than
    `max_length`, or a chat template that drops turns (docs/training-rows.md).
    """
    return training_data_spec(context, experiment_settings(context))


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "training_data"],
    kinds={"json"},
    checks=[CheckSpec("fits", "The lower bound of the estimate fits the GPU that the experiment declares.")],
    build=lambda build: _build_estimate(build),
    show=lambda artifact: _memory_metadata(artifact),
)
def memory_estimate(context: SpecContext) -> Spec:
    """The memory that this training will need, from the model's config alone, before anything is loaded.

    **Look here** to see what takes the memory, and what to change if it is too much.

    **If `fits` is red:** the training would run out of memory on the GPU of the experiment. `advice` lists what helps,
    the most effective first.
    """
    inputs = {"base_model": context.artifact("base_model"), "training_data": context.artifact("training_data")}
    settings = settings_for_base(experiment_settings(context), inputs["base_model"])
    inputs |= reading_teacher(context.store, settings, inputs["training_data"], inputs["base_model"])
    config = {"experiment": settings.model_dump(mode="json", exclude={"gguf", "machine"})}
    return Spec("memory_estimate", references(inputs), config)


@step(
    stage="training",
    per_experiment=True,
    deps=["experiment", "base_model", "training_data", "memory_estimate"],
    kinds={"pytorch", "huggingface"},
    gpu=True,
    show=lambda artifact: _adapter_metadata(artifact),
)
def adapter(context: SpecContext) -> Spec:
    """The trained weights: LoRA matrices, or all weights with `full`. Those of the step with the lowest held-out loss.

    **Look here** at the loss curve: the held-out loss (orange) should fall and then stay level. If it rises while the
    training loss falls, the model memorizes: train for fewer epochs or add data.

    **If it fails:** run it again, and it resumes from its last checkpoint. If memory ran out, see `memory_estimate`.
    """
    context.checked_artifact("conversations")
    context.checked_artifact("memory_estimate")
    phases = experiment_phases(context)
    base, continued_adapter = starting_model(context, phases)
    return adapter_spec(context, phases[-1], context.checked_artifact("training_data"), base, continued_adapter)


merged_model = asset_of(MERGED_MODEL)


@step(
    stage="training",
    per_experiment=True,
    deps=["merged_model"],
    kinds={"gguf"},
    build=lambda build: _write_json(build, INDEX, {"name": None, "files": {}}),
    builds_here=lambda spec: not spec.inputs,
    show=lambda artifact: _gguf_metadata(artifact),
)
def gguf(context: SpecContext) -> Spec:
    """The merged model as GGUF files, for llama.cpp and Ollama. Empty, unless the experiment or an export asks for one.

    **Look here** for the files and their sizes. `gguf_scores` says what each costs in quality.

    **If it fails:** llama.cpp does not know the architecture of the model, or the disk is full (docs/gguf.md).
    """
    assert context.experiment is not None
    types = wanted_types(context)
    if not types:
        return Spec("gguf", config=NOTHING)
    return gguf_spec(context, context.checked_artifact("merged_model"), context.experiment, types)


def _write_json(build: BuildContext, name: str, content: Any) -> dict[str, Any]:
    (build.out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return {}


def _build_estimate(build: BuildContext) -> dict[str, Any]:
    settings = ExperimentSettings.model_validate(build.spec.config["experiment"])
    model_config = build.artifact("base_model").document("config.json")
    teacher = build.artifact("teacher").document("config.json") if "teacher" in build.inputs else None
    longest = build.artifact("training_data").summary["audit"]["lengths"]["max"]
    parameter_count = build.artifact("base_model").summary["params"]
    estimate = estimate_experiment(
        settings, model_config, longest, settings.gpu.min_memory_gb or None, params=parameter_count, teacher=teacher
    )
    _write_json(build, "memory.json", estimate)
    return {**estimate, "checks": {"fits": _fits_check(estimate, settings.gpu.min_memory_gb)}}


def _fits_check(estimate: dict[str, Any], declared_gb: float) -> dict[str, Any]:
    """The result of the check `fits`. declared_gb: memory of the GPU; 0 if the experiment declares none."""
    message = f"needs about {estimate['total_gb']:.1f} GB, at least {estimate['lower_bound_gb']:.1f} GB; "
    if "ranks" in estimate:
        message = f"{describe_ranks(estimate['ranks'])}; at least {estimate['lower_bound_gb']:.1f} GB; "
    if declared_gb:
        message += f"the declared GPU has {declared_gb:g} GB"
    else:
        message += f"no GPU size declared; on a CPU {describe_cpu_memory(estimate['cpu_gb'])}"
    fits = estimate["possible"] is not False  # without a declared size there is nothing to compare with
    if not fits:
        message += ". To make it fit, " + "; or ".join(estimate["advice"])
    return {"passed": fits, "blocking": True, "message": message}


def _experiment_metadata(artifact: Artifact) -> dict[str, Any]:
    """In what the experiment differs from the defaults, and all settings."""
    config = artifact.spec["config"]
    defaults = flatten_settings(ExperimentSettings().model_dump(mode="json"))
    differing = [
        f"`{name}`: `{_as_text(value)}`" + (f", not `{_as_text(default)}`" if value != default else "")
        for name, value in flatten_settings(config).items()
        if (default := defaults.get(name)) != value or name in ("base_model", "objective", "technique")
    ]
    return {"changed_settings": Points(differing), "settings": config}


def _as_text(value: Any) -> str:
    return json.dumps(value) if value in (None, "") or isinstance(value, (dict, list, bool)) else str(value)


def _training_data_metadata(artifact: Artifact) -> dict[str, Any]:
    audit = artifact.summary["audit"]
    objective = artifact.spec["config"]["experiment"]["objective"]
    lineage = OBJECTIVES[objective].lineage_from(artifact.inputs)
    columns = [name for name in COLUMNS if name == "source" or name in lineage]
    return {
        "example": audit["example"]["marked"],
        "rows": audit["rows"],
        "histogram": Picture(small_plots.bars(**audit["histogram"], unit="tokens", alternative_text=_LENGTHS)),
        **_long_rows_metadata(audit),
        "tokens": audit["tokens"],
        "trained_tokens": audit["trained_tokens"],
        "trained_share": audit["trained_share"],
        "lengths": audit["lengths"],
        "split_by_turn": audit["split_by_turn"] or None,
        "reasoning": audit["reasoning"]["message"] or None,
        "dagster/column_lineage": Lineage(lineage),
        "dagster/column_schema": Columns(token_table(columns)),
    }


def _long_rows_metadata(audit: dict[str, Any]) -> dict[str, Any]:
    """Return the rows that are longer than max_length, if the experiment leaves them out or cuts them."""
    left_out = [row for row in audit.get("left_out", ()) if "tokens" in row]
    cut = audit.get("long_rows", {}).get("cut", [])
    if not left_out and not cut:
        return {}
    names = ("table", "file", "row", "tokens")
    rows = [
        {**{name: row[name] for name in names}, "left_out": "yes", "lost_tokens": row["tokens"]} for row in left_out
    ]
    rows += [
        {**{name: row[name] for name in names}, "left_out": "no", "lost_tokens": row["lost_tokens"]} for row in cut
    ]
    return {"long_rows": audit["long_rows"]["message"], "rows_too_long": Table(rows)}


def _memory_metadata(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    gigabytes = {name: size / 1e9 for name, size in summary["bytes"].items()}
    bar = small_plots.stacked_bar(gigabytes, summary["gpu_memory_gb"], "GB", "memory by part")
    on_a_cpu = describe_cpu_memory(summary["cpu_gb"]) if "cpu_gb" in summary else None  # older artifacts lack it
    return {
        "fits": Words(summary["checks"]["fits"]["message"]),
        "parts": Picture(bar),
        "advice": Points(summary["advice"]),
        "total_gb": summary["total_gb"],
        "on_a_cpu": on_a_cpu,
        "by_rank": describe_ranks(summary["ranks"]) if "ranks" in summary else None,
    }


def _gguf_metadata(artifact: Artifact) -> dict[str, Any]:
    files = [
        {"file": entry["file"], "megabytes": round(entry["bytes"] / 1e6, 1), "note": entry["note"] or ""}
        for entry in artifact.document(INDEX)["files"].values()
    ]
    return {"files": Table(files)} if files else {}


def _adapter_metadata(artifact: Artifact) -> dict[str, Any]:
    entries = [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    training = [entry for entry in entries if "loss" in entry]
    held_out = [entry for entry in entries if "eval_loss" in entry]
    rewarded = any("reward" in entry for entry in training)
    curve = small_plots.loss_curve(
        [(entry["step"], 1 - entry["reward"] if rewarded else entry["loss"]) for entry in training],
        [(entry["step"], entry["eval_loss"]) for entry in held_out],
        "training and held-out reward, subtracted from 1" if rewarded else "training and held-out loss",
    )
    summary, targets = artifact.summary, own_targets(artifact)
    return {
        "loss_curve": Picture(curve),
        "own_target": Words(" ".join(target.describe() for target in targets)) if targets else None,
        **{key: summary.get(key) for key in _TRAINING_NUMBERS},
        "learning_rate": artifact.spec["config"]["experiment"]["training"]["learning_rate"],
        **{key: value for key, value in summary.items() if key.startswith(("first_", "best_"))},
        "resumed_from_step": summary["resumed_from_step"] or None,
        "processes": summary["processes"] if summary["processes"] > 1 else None,
        **_expected_time(artifact),
    }


def _expected_time(artifact: Artifact) -> dict[str, Any]:
    """Return how long earlier trainings had let expect, and how far off that was; empty without any (`ft plan`)."""
    store = ArtifactStore(artifact.path.parents[3])
    after = hindsight(store, artifact, measured_steps(store, ["adapter"]))
    if after["estimate"] is None:
        return {}
    low, high = (format_duration(seconds) for seconds in after["estimate"])
    return {"expected_time": f"{low} to {high}", "times_expected": round(after["off_by"], 2)}
