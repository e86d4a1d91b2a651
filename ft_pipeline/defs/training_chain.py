"""Specs of the phases of an experiment: `start_from` trains other experiments first, each with separate artifacts."""

from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.execution.recorded_checks import require_passed
from ft_pipeline.execution.step import SpecContext, versions_of
from ft_pipeline.models.base_model import identify_model
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.learning_rates import resolved
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.training.objectives.registry import OBJECTIVES, UNFILTERED_TABLES

ADAPTED = ("lora", "qlora")
NOT_IN_SPEC = {"retrain", "seeds", "learning_curve"}
"""Settings for when an experiment is trained, and for its sweep: they do not change its own result."""


@dataclass(frozen=True)
class Phase:
    """One experiment of the chain."""

    name: str
    settings: ExperimentSettings


def experiment_spec(at: SpecContext) -> Spec:
    """Return the spec of this partition's experiment: its phases, as their YAML files are now."""
    assert at.experiment is not None
    *before, own = [
        {"name": name, **without_trackers(settings).model_dump(mode="json", exclude=NOT_IN_SPEC)}
        for name, settings in at.project.stages(at.experiment)
    ]
    return Spec("experiment", config={**own, "stages_before": before})


def experiment_phases(at: SpecContext) -> list[Phase]:
    """Return the phases that `experiment` was materialized with, whatever the YAML files are now.

    The experiment itself is the last phase.
    """
    config = at.artifact("experiment").spec["config"]
    own = {key: value for key, value in config.items() if key != "stages_before"}
    return [_stage(phase) for phase in (*config["stages_before"], own)]


def experiment_settings(at: SpecContext) -> ExperimentSettings:
    """Return the settings that `experiment` was materialized with, whatever the YAML file is now."""
    return experiment_phases(at)[-1].settings


def _stage(config: dict[str, Any]) -> Phase:
    settings = {key: value for key, value in config.items() if key != "name"}
    return Phase(config["name"], ExperimentSettings.model_validate(settings))


def beginning(at: SpecContext, stages: list[Phase]) -> tuple[Artifact, Artifact | None]:
    """Return what the last phase trains from: (base model, the adapter that it continues, if any).

    The earlier phases are found in the store or trained, and their checks are read. An adapter of the same shape is
    continued. After any other change, the merged model of the phase before is the base model.
    """
    if len(stages) == 1:
        return at.artifact("base_model"), None
    before, last = stages[-2], stages[-1]
    base, start = beginning(at, stages[:-1])
    data = require_passed(at.built(training_data_spec(at, before.settings)))
    trained = at.built(adapter_spec(at, before, data, base, start))
    if goes_on(before.settings, last.settings):
        return base, trained
    merged = require_passed(at.built(merged_model_spec(at, before.settings, data, trained)))
    config = {"model": f"merged:{before.name}", "revision": None, "content": None}
    return at.built(Spec("base_model", {"merged_model": merged.reference}, config)), None


def goes_on(before: ExperimentSettings, after: ExperimentSettings) -> bool:
    """Whether `after` continues to train the adapter of `before`."""
    shape = ("technique", "lora", "quantization")
    return after.technique in ADAPTED and all(getattr(before, key) == getattr(after, key) for key in shape)


def base_model_spec(model: str, revision: str | None) -> Spec:
    """Return the spec of a base model, or of a local teacher."""
    return Spec(
        "base_model", config=dict(identify_model(model, revision)), versions=versions_of("transformers", "gguf")
    )


def training_data_spec(at: SpecContext, settings: ExperimentSettings) -> Spec:
    """Return the spec of one phase's training data.

    It reads only the tables that its objective trains on, so that a new preference pair never retrains an sft.
    """
    inputs = {"conversations": at.passed("conversations"), "base_model": at.artifact("base_model")}
    wanted = settings.model_dump(mode="json", include={"objective", "data", "training"})
    training = {key: wanted["training"][key] for key in ("max_length", "seed")}
    config: dict[str, Any] = {"experiment": {**wanted, "training": training}}
    tables = OBJECTIVES[settings.objective].tables(settings)
    inputs |= {table: at.passed(table) for table in tables}
    if any(table in UNFILTERED_TABLES for table in tables):
        config["data"] = at.project.settings.data.model_dump(mode="json")
    return Spec("training_data", references(inputs), config, versions_of("transformers", "tokenizers"))


def adapter_spec(at: SpecContext, stage: Phase, data: Artifact, base: Artifact, start: Artifact | None) -> Spec:
    """Return the spec of one phase's adapter. The reference model of dpo is what it starts from, so it is an input."""
    inputs = {"training_data": data, "base_model": base, **({"start": start} if start else {})}
    settings = on_base(stage.settings, base)
    keys = {"objective", "technique", "prompt_tuning", "lora", "quantization", "training", "dpo"}
    config = {"experiment": settings.model_dump(mode="json", include=keys)}
    versions = versions_of("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
    seed, handling = settings.training.seed, {"report_to": trackers(at, stage.name)}
    return Spec("adapter", references(inputs), config, versions, seed=seed, handling=handling)


def trackers(at: SpecContext, name: str) -> list[str]:
    """Return `training.report_to` as the experiment's YAML is now. Like all handling, it is not part of a spec."""
    try:
        return list(at.project.experiment(name).training.report_to)
    except UserError:  # an earlier phase whose YAML was since renamed or broken
        return []


def on_base(settings: ExperimentSettings, base: Artifact) -> ExperimentSettings:
    """Return the settings as specs contain them: the learning rate resolved for the size of `base`, no trackers."""
    return without_trackers(resolved(settings, base.summary["params"]))


def without_trackers(settings: ExperimentSettings) -> ExperimentSettings:
    """Return the settings as specs contain them: without trackers, because these change no result."""
    return settings.model_copy(update={"training": settings.training.model_copy(update={"report_to": []})})


def merged_model_spec(at: SpecContext, settings: ExperimentSettings, data: Artifact, trained: Artifact) -> Spec:
    """Return the spec of one phase's merged model, on the base model that its adapter was trained on."""
    base = trained_on(at, trained)
    inputs = {"adapter": trained, "base_model": base, "training_data": data}
    keys = {"objective", "technique", "quantization", "merge", "lora", "training"}
    config = {"experiment": on_base(settings, base).model_dump(mode="json", include=keys)}
    versions = versions_of("torch", "transformers", "peft", "bitsandbytes")
    return Spec("merged_model", references(inputs), config, versions)


def trained_on(at: SpecContext, trained: Artifact) -> Artifact:
    """Return the base model that an adapter's manifest names, so that a user cannot mismatch the two."""
    return at.store.require(*trained.inputs["base_model"])


def references(inputs: dict[str, Artifact]) -> dict[str, tuple[str, str]]:
    """Return the inputs as a spec names them: (kind, fingerprint) of each artifact."""
    return {name: artifact.reference for name, artifact in inputs.items()}
