"""Specs of the phases of an experiment: `start_from` trains other experiments first, each with its own artifacts."""

import contextlib
from collections.abc import Mapping
from typing import Any

from ft_pipeline.defs.distill_specs import teacher_distributions_spec, teacher_model
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.reward_config import reward_config
from ft_pipeline.models.base_model import identify_model
from ft_pipeline.models.generation_config import ignored_while_decoding
from ft_pipeline.project import Project
from ft_pipeline.recorded_checks import require_passed
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.step import SpecContext, versions_of
from ft_pipeline.steps.merged_model import merged_model_spec
from ft_pipeline.steps.phases import Phase, settings_for_base, without_trackers
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import ArtifactReference, Spec
from ft_pipeline.training.objectives.registry import OBJECTIVES, UNFILTERED_TABLES
from ft_pipeline.training.reading_teacher import reading_teacher

ADAPTER_TECHNIQUES = ("lora", "qlora")
"""Techniques whose adapter a later phase can continue."""
ADAPTER_SHAPE = ("technique", "lora", "quantization")
"""Settings that are equal if a phase continues the adapter of the one before it."""
NOT_IN_SPEC = {"retrain", "seeds", "learning_curve", "gguf", "machine"}
"""Settings for when and where an experiment is trained, for its sweep, and for what is made of its result. They do not
change it."""


def experiment_spec(context: SpecContext) -> Spec:
    """Return the spec of this partition's experiment: its phases, as their YAML files are now."""
    assert context.experiment is not None
    *previous, own = [
        {"name": name, **without_trackers(settings).model_dump(mode="json", exclude=NOT_IN_SPEC)}
        for name, settings in context.project.training_chain(context.experiment)
    ]
    return Spec("experiment", config={**own, "stages_before": previous})


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


def base_model_spec(
    context: SpecContext, model: str, revision: str | None, variables: Mapping[str, Any] | None = None
) -> Spec:
    """Return the spec of a base model, or of a local teacher. variables: `chat_template_kwargs`."""
    config: dict[str, Any] = dict(identify_model(model, revision, context.store.file_hashes))
    if variables:
        config["chat_template_kwargs"] = dict(variables)
    return Spec("base_model", config=config, versions=versions_of("transformers", "gguf"))


def bases_of_experiments(context: SpecContext) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """Return the base models of the experiments, with (revision, variables of the chat template). Broken experiments
    have none.

    Variables do not change how the tokens of an answer are counted. So a model without them comes first, and setting
    some in one experiment does not change the scores of the others.
    """
    bases: dict[str, tuple[str | None, dict[str, Any]]] = {}
    for name in context.project.experiment_names():
        with contextlib.suppress(UserError):
            settings = context.project.experiment(name)
            known = bases.get(settings.base_model)
            if known is None or (known[1] and not settings.chat_template_kwargs):
                bases[settings.base_model] = settings.revision, settings.chat_template_kwargs
    return bases


def assets_not_read(project: Project, experiment: str) -> set[str]:
    """Return what no phase of an experiment trains on, so that no teacher is asked for it."""
    chain = project.training_chain(experiment)
    read = {table for _, settings in chain for table in OBJECTIVES[settings.objective].tables(settings)}
    return {"distilled"} - read


def training_data_spec(context: SpecContext, settings: ExperimentSettings) -> Spec:
    """Return the spec of one phase's training data.

    Besides `conversations`, its inputs are only the tables that its objective trains on. So a new preference pair never
    retrains an sft.
    """
    inputs = {"conversations": context.checked_artifact("conversations"), "base_model": context.artifact("base_model")}
    selected = settings.model_dump(mode="json", include={"objective", "data", "training", "distill"})
    training = {
        key: selected["training"][key] for key in ("max_length", "long_rows", "seed") if key in selected["training"]
    }
    config: dict[str, Any] = {"experiment": {**selected, "training": training}}
    tables = OBJECTIVES[settings.objective].tables(settings)
    inputs |= {table: context.checked_artifact(table) for table in tables}
    if settings.objective == "distill":
        inputs["teacher_distributions"] = _teacher_distributions(context, settings, inputs["base_model"])
    if settings.objective == "distill" or any(table in UNFILTERED_TABLES for table in tables):
        config["data"] = context.project.settings.data.config()
    return Spec("training_data", references(inputs), config, versions_of("transformers", "tokenizers"))


def _teacher_distributions(context: SpecContext, settings: ExperimentSettings, student: Artifact) -> Artifact:
    """Return the distributions of an experiment's teacher. MissingInput if they, or its model, are not built yet."""
    model = teacher_model(settings)
    teacher = student if model is None else context.built_artifact(base_model_spec(context, *model))
    return context.built_artifact(teacher_distributions_spec(context, settings, student, teacher))


def adapter_spec(
    context: SpecContext, phase: Phase, data: Artifact, base: Artifact, continued_adapter: Artifact | None
) -> Spec:
    """Return the spec of one phase's adapter.

    What it starts from is an input, even for dpo, kto and grpo, whose reference model it is.
    """
    inputs = {"training_data": data, "base_model": base, **({"start": continued_adapter} if continued_adapter else {})}
    inputs |= reading_teacher(context.store, phase.settings, data, base)
    settings = settings_for_base(phase.settings, base)
    keys = {"objective", "technique", "prompt_tuning", "lora", "quantization", "training", "dpo", "kto", "grpo"} | {
        "distill"
    }
    config: dict[str, Any] = {"experiment": settings.model_dump(mode="json", include=keys)}
    if settings.objective == "grpo":
        evaluation = context.project.settings.evaluation
        config["rewards"] = reward_config(context.project.root, evaluation, settings.grpo.rewards)
        config |= ignored_while_decoding(base.path)
    versions = versions_of("torch", "transformers", "peft", "bitsandbytes", "accelerate")
    seed, handling = settings.training.seed, {"report_to": trackers(context, phase.name)}
    return Spec("adapter", references(inputs), config, versions, seed=seed, handling=handling)


def trackers(context: SpecContext, name: str) -> list[str]:
    """Return `training.report_to` as the experiment's YAML is now. Like all handling, it is not hashed."""
    try:
        return list(context.project.experiment(name).training.report_to)
    except UserError:  # an earlier phase whose YAML was since renamed or broken
        return []


def references(inputs: dict[str, Artifact]) -> dict[str, ArtifactReference]:
    """Return the inputs as a spec names them: name → (kind, fingerprint)."""
    return {name: artifact.reference for name, artifact in inputs.items()}
