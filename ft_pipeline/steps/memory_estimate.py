"""The memory that this training will need, from the model's config alone, before anything is loaded.

**Look here** to see what takes the memory, and what to change if it is too much.

**If `fits` is red:** the training would run out of memory on the GPU of the experiment. `advice` lists what helps,
the most effective first.
"""

from typing import Annotated, Any

from ft_pipeline import small_plots
from ft_pipeline.page import Page, Picture, Points, Words
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.feature_keys import defaults_of_features
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, StepConfig, spec_of, step_of, without
from ft_pipeline.steps.shared.phases import experiment_settings, settings_for_base
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.training.memory.estimate import describe_cpu_memory, estimate_experiment
from ft_pipeline.training.memory.rank_share import describe_ranks
from ft_pipeline.training.reading_teacher import reading_teacher


class Config(StepConfig):
    """The settings that take memory, and others."""

    experiment: Annotated[ExperimentSettings, without("machine", *defaults_of_features("experiment"))]


def spec(context: SpecContext) -> Spec:
    """Return the spec of this experiment's estimate."""
    inputs = {"base_model": context.artifact("base_model"), "training_data": context.artifact("training_data")}
    settings = settings_for_base(experiment_settings(context), inputs["base_model"])
    inputs |= reading_teacher(context.store, settings, inputs["training_data"], inputs["base_model"])
    return spec_of("memory_estimate", inputs, Config(experiment=settings))


def build(build: BuildContext) -> dict[str, Any]:
    """Estimate the memory, and compare it with that of the declared GPU."""
    settings = Config.of(build.spec).experiment
    model_config = build.artifact("base_model").document("config.json")
    teacher = build.artifact("teacher").document("config.json") if "teacher" in build.inputs else None
    longest = build.artifact("training_data").summary["audit"]["lengths"]["max"]
    parameter_count = build.artifact("base_model").summary["params"]
    estimate = estimate_experiment(
        settings, model_config, longest, settings.gpu.min_memory_gb or None, params=parameter_count, teacher=teacher
    )
    build.write_json("memory.json", estimate)
    return {**estimate, "checks": {"fits": fits_check(estimate, settings.gpu.min_memory_gb)}}


def fits_check(estimate: dict[str, Any], declared_gb: float) -> dict[str, Any]:
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


def page(artifact: Artifact) -> Page:
    """Whether it fits, and what takes the memory."""
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


CHECKS = (CheckSpec("fits", "The lower bound of the estimate fits the GPU that the experiment declares."),)

STEP = step_of(
    __name__,
    stage="training",
    deps=("experiment", "base_model", "training_data"),
    per_experiment=True,
    kinds=frozenset({"json"}),
)
