"""The trained weights: LoRA matrices, or all weights with `full`. Those of the step with the lowest held-out loss.

**Look here** at the loss curve: the held-out loss (orange) should fall and then stay level. If it rises while the
training loss falls, the model memorizes: train for fewer epochs or add data.

**If it fails:** run it again, and it resumes from its last checkpoint. If memory ran out, see `memory_estimate`.
"""

import json
from dataclasses import replace
from typing import Annotated, Any

from ft_pipeline import small_plots
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.own_targets import own_targets
from ft_pipeline.job import Job
from ft_pipeline.pace import format_duration
from ft_pipeline.page import Page, Picture, Words
from ft_pipeline.recorded_checks import require_passed
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.objectives import objective_sections
from ft_pipeline.settings.yaml_file import later
from ft_pipeline.step import SpecContext, StepConfig, only, spec_of, step_of
from ft_pipeline.steps.merged_model import merged_model_spec
from ft_pipeline.steps.shared.phases import Phase, experiment_phases, settings_for_base
from ft_pipeline.steps.training_data import training_data_spec
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.reading_teacher import reading_teacher
from ft_pipeline.training.step_history import hindsight, measured_steps

ADAPTER_TECHNIQUES = ("lora", "qlora")
"""Techniques whose adapter a later phase can continue."""
ADAPTER_SHAPE = ("technique", "lora", "quantization")
"""Settings that are equal if a phase continues the adapter of the one before it."""
NUMBERS = (
    *("best_eval_loss", "first_eval_loss", "train_loss", "best_step", "steps", "stopped_early"),
    *("trainable_params", "trainable_share", "tokens_per_second", "peak_memory_gb", "computed_in"),
)
"""What the page shows of the summary."""


class Config(StepConfig):
    """The settings that the weights depend on."""

    experiment: Annotated[
        ExperimentSettings,
        only(
            *("objective", "technique", "prompt_tuning", "lora", "quantization", "training"),
            *("distill", *objective_sections()),
        ),
    ]
    rewards: dict[str, Any] | None = later(None)
    """What scores an answer that the model draws."""
    ignored_while_decoding: list[str] = later(default_factory=list)
    """Where the model draws answers: keys of the model's own generation config, which would change its answers."""


def spec(context: SpecContext) -> Spec:
    """Return the spec of this experiment's adapter."""
    context.checked_artifact("conversations")
    context.checked_artifact("memory_estimate")
    phases = experiment_phases(context)
    base, continued_adapter = starting_model(context, phases)
    return adapter_spec(context, phases[-1], context.checked_artifact("training_data"), base, continued_adapter)


def starting_model(context: SpecContext, phases: list[Phase]) -> tuple[Artifact, Artifact | None]:
    """Return what the last phase trains from: (base model, the adapter that it continues, if any).

    An adapter of the same shape is continued. Otherwise the merged model of the previous phase is the base model.
    Raises MissingInput if an artifact of an earlier phase is not built yet, and UserError if one failed a check.
    """
    if len(phases) == 1:
        return context.artifact("base_model"), None
    previous, last = phases[-2], phases[-1]
    base, continued_adapter = starting_model(context, phases[:-1])
    data = require_passed(context.built_artifact(training_data_spec(context, previous.settings)))
    adapter = context.built_artifact(adapter_spec(context, previous, data, base, continued_adapter))
    if continues_adapter(previous.settings, last.settings):
        return base, adapter
    merged_model = require_passed(context.built_artifact(merged_model_spec(context, previous.settings, data, adapter)))
    config = {"model": f"merged:{previous.name}", "revision": None, "content": None}
    return context.built_artifact(Spec("base_model", {"merged_model": merged_model.reference}, config)), None


def continues_adapter(previous: ExperimentSettings, last: ExperimentSettings) -> bool:
    """Whether `last` continues to train the adapter of `previous`."""
    is_equal = all(getattr(previous, key) == getattr(last, key) for key in ADAPTER_SHAPE)
    return last.technique in ADAPTER_TECHNIQUES and is_equal


def adapter_spec(
    context: SpecContext, phase: Phase, data: Artifact, base: Artifact, continued_adapter: Artifact | None
) -> Spec:
    """Return the spec of one phase's adapter.

    What it starts from is an input, even for dpo, kto and grpo, whose reference model it is.
    """
    inputs = {"training_data": data, "base_model": base, **({"start": continued_adapter} if continued_adapter else {})}
    inputs |= reading_teacher(context.store, phase.settings, data, base)
    settings = settings_for_base(phase.settings, base)
    facts = OBJECTIVES[settings.objective].facts(context.project, settings, base)
    libraries = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
    made = spec_of("adapter", inputs, Config(experiment=settings, **facts), libraries)
    return replace(made, seed=settings.training.seed, handling={"report_to": trackers(context, phase.name)})


def trackers(context: SpecContext, name: str) -> list[str]:
    """Return `training.report_to` as the experiment's YAML is now. Like all handling, it is not hashed."""
    try:
        return list(context.project.experiment(name).training.report_to)
    except UserError:  # an earlier phase whose YAML was since renamed or broken
        return []


def run(job: Job) -> dict[str, Any]:
    """Train the weights that the technique changes (training/adapter.py)."""
    from ft_pipeline.training import adapter

    return adapter.run(job)


def page(artifact: Artifact) -> Page:
    """The loss of training and of the held-out rows, and how the training went."""
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
        **{key: summary.get(key) for key in NUMBERS},
        "learning_rate": artifact.spec["config"]["experiment"]["training"]["learning_rate"],
        **{key: value for key, value in summary.items() if key.startswith(("first_", "best_"))},
        "resumed_from_step": summary["resumed_from_step"] or None,
        "processes": summary["processes"] if summary["processes"] > 1 else None,
        **_expected_time(artifact),
    }


def _expected_time(artifact: Artifact) -> Page:
    """Return how long earlier trainings had let expect, and how far off that was; empty without any (`ft plan`)."""
    store = ArtifactStore(artifact.path.parents[3])
    after = hindsight(store, artifact, measured_steps(store, ["adapter"]))
    if after["estimate"] is None:
        return {}
    low, high = (format_duration(seconds) for seconds in after["estimate"])
    return {"expected_time": f"{low} to {high}", "times_expected": round(after["off_by"], 2)}


STEP = step_of(
    __name__,
    stage="training",
    deps=("experiment", "base_model", "training_data", "memory_estimate"),
    per_experiment=True,
    kinds=frozenset({"pytorch", "huggingface"}),
    gpu=True,
)
