"""The stages of an experiment: `start_from` trains others first, each an artifact of its own; these are their specs."""

from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.execution.recorded_checks import require_passed
from ft_pipeline.execution.step import SpecContext, versions_of
from ft_pipeline.models.base_model import identify
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.learning_rates import resolved
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

ADAPTED = ("lora", "qlora")
BESIDE = {"retrain", "seeds", "learning_curve"}
"""Settings of when an experiment is trained, and of what is trained beside it: they change nothing of it."""


@dataclass(frozen=True)
class Phase:
    """One experiment of the chain."""

    name: str
    settings: ExperimentSettings


def experiment_spec(at: SpecContext) -> Spec:
    """The stages of this partition's experiment, as their YAMLs say now."""
    assert at.experiment is not None
    *before, own = [
        {"name": name, **without_trackers(settings).model_dump(mode="json", exclude=BESIDE)}
        for name, settings in at.project.stages(at.experiment)
    ]
    return Spec("experiment", config={**own, "stages_before": before})


def experiment_phases(at: SpecContext) -> list[Phase]:
    """The stages that `experiment` was materialized with, not what the YAMLs say by now; the experiment itself last."""
    config = at.artifact("experiment").spec["config"]
    own = {key: value for key, value in config.items() if key != "stages_before"}
    return [_stage(each) for each in (*config["stages_before"], own)]


def experiment_settings(at: SpecContext) -> ExperimentSettings:
    """The settings that `experiment` was materialized with, not what the YAML says by now."""
    return experiment_phases(at)[-1].settings


def _stage(config: dict[str, Any]) -> Phase:
    settings = {key: value for key, value in config.items() if key != "name"}
    return Phase(config["name"], ExperimentSettings.model_validate(settings))


def beginning(at: SpecContext, stages: list[Phase]) -> tuple[Artifact, Artifact | None]:
    """What the last stage trains from: (base model, the adapter to go on from, if any).

    The stages before it are found in the store, or trained, and their gates are read. An adapter of the same shape goes
    on; after any other change the merged model of the stage before is the base.
    """
    if len(stages) == 1:
        return at.artifact("base_model"), None
    before, last = stages[-2], stages[-1]
    base, start = beginning(at, stages[:-1])
    data = require_passed(at.made(training_data_spec(at, before.settings)))
    trained = at.made(adapter_spec(at, before, data, base, start))
    if goes_on(before.settings, last.settings):
        return base, trained
    merged = require_passed(at.made(merged_model_spec(at, before.settings, data, trained)))
    config = {"model": f"merged:{before.name}", "revision": None, "content": None}
    return at.made(Spec("base_model", {"merged_model": merged.reference}, config)), None


def goes_on(before: ExperimentSettings, after: ExperimentSettings) -> bool:
    """Whether `after` trains the very adapter that `before` left."""
    shape = ("technique", "lora", "quantization")
    return after.technique in ADAPTED and all(getattr(before, key) == getattr(after, key) for key in shape)


def base_model_spec(model: str, revision: str | None) -> Spec:
    """The spec of a base model; the teacher is resolved by it too."""
    return Spec("base_model", config=dict(identify(model, revision)), versions=versions_of("transformers", "gguf"))


def training_data_spec(at: SpecContext, settings: ExperimentSettings) -> Spec:
    """Of one stage: reads just the tables that its objective trains on, so that a new pair never retrains an sft."""
    inputs = {"conversations": at.passed("conversations"), "base_model": at.artifact("base_model")}
    wanted = settings.model_dump(mode="json", include={"objective", "data", "training"})
    training = {key: wanted["training"][key] for key in ("max_length", "seed")}
    config: dict[str, Any] = {"experiment": {**wanted, "training": training}}
    if settings.objective == "sft" and settings.data.weights.distilled > 0:
        inputs["distilled"] = at.passed("distilled")
    source = {"dpo": "preferences", "cpt": "text", "sft": "text" if settings.data.weights.replay > 0 else None}
    if (table := source[settings.objective]) is not None:
        inputs[table] = at.passed(table)
        config["data"] = at.project.settings.data.model_dump(mode="json")
    return Spec("training_data", references(inputs), config, versions_of("transformers", "tokenizers"))


def adapter_spec(at: SpecContext, stage: Phase, data: Artifact, base: Artifact, start: Artifact | None) -> Spec:
    """Of one stage. The reference model of dpo is what it starts from, and so stands among the inputs."""
    inputs = {"training_data": data, "base_model": base, **({"start": start} if start else {})}
    settings = on_base(stage.settings, base)
    keys = {"objective", "technique", "prompt_tuning", "lora", "quantization", "training", "dpo"}
    config = {"experiment": settings.model_dump(mode="json", include=keys)}
    versions = versions_of("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
    seed, handling = settings.training.seed, {"report_to": trackers(at, stage.name)}
    return Spec("adapter", references(inputs), config, versions, seed=seed, handling=handling)


def trackers(at: SpecContext, name: str) -> list[str]:
    """`training.report_to` as the experiment's YAML says now: like all handling, it is in no spec."""
    try:
        return list(at.project.experiment(name).training.report_to)
    except UserError:  # an earlier stage whose YAML was renamed or broken since
        return []


def on_base(settings: ExperimentSettings, base: Artifact) -> ExperimentSettings:
    """The settings as specs have them: the learning rate resolved for the size of `base`, and no trackers."""
    return without_trackers(resolved(settings, base.summary["params"]))


def without_trackers(settings: ExperimentSettings) -> ExperimentSettings:
    """The settings as specs have them: no tracker changes a result."""
    return settings.model_copy(update={"training": settings.training.model_copy(update={"report_to": []})})


def merged_model_spec(at: SpecContext, settings: ExperimentSettings, data: Artifact, trained: Artifact) -> Spec:
    """Of one stage, onto the base that its adapter was trained on."""
    base = trained_on(at, trained)
    inputs = {"adapter": trained, "base_model": base, "training_data": data}
    keys = {"objective", "technique", "quantization", "merge", "lora", "training"}
    config = {"experiment": on_base(settings, base).model_dump(mode="json", include=keys)}
    versions = versions_of("torch", "transformers", "peft", "bitsandbytes")
    return Spec("merged_model", references(inputs), config, versions)


def trained_on(at: SpecContext, trained: Artifact) -> Artifact:
    """The base model of an adapter, as its manifest names it: a user cannot mismatch the two."""
    return at.store.require(*trained.inputs["base_model"])


def references(inputs: dict[str, Artifact]) -> dict[str, tuple[str, str]]:
    return {name: artifact.reference for name, artifact in inputs.items()}
