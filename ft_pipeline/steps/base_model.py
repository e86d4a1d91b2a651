"""The model before training, as plain safetensors: from a hub, a folder, or the embedded one.

**Look here** to see which model it is, from where, and how large.

**If it fails:** the hub does not have it or wants a token, or the disk is full. The error says which.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

from ft_pipeline.distillation.answer_table import count_prompts
from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.base_model import EMBEDDED, identify_model
from ft_pipeline.page import Page
from ft_pipeline.settings.yaml_file import Section, later
from ft_pipeline.step import SpecContext, StepConfig, spec_of, step_of
from ft_pipeline.steps.shared.phases import experiment_settings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

SHOWN = ("source", "params", "dtype", "trust_remote_code", "left_out")
"""What the page shows of the summary."""


class ModelIdentity(Section):
    """Which model it is, as `identify_model` returns it."""

    model: str
    revision: str | None
    content: str | None
    """The SHA-256 of a model in a folder, or of the embedded one."""


class Config(ModelIdentity, StepConfig):
    """Which model it is, and with which variables its chat template is rendered."""

    chat_template_kwargs: dict[str, Any] = later(default_factory=dict)


def spec(context: SpecContext) -> Spec:
    """Return the spec of this experiment's base model."""
    settings = experiment_settings(context)
    return base_model_spec(context, settings.base_model, settings.revision, settings.chat_template_kwargs)


def base_model_spec(
    context: SpecContext, model: str, revision: str | None, variables: Mapping[str, Any] | None = None
) -> Spec:
    """Return the spec of a base model, or of a local teacher. variables: `chat_template_kwargs`."""
    identity = identify_model(model, revision, context.store.file_hashes)
    config = Config(**identity, chat_template_kwargs=dict(variables or {}))
    return spec_of("base_model", {}, config, libraries=("transformers", "gguf"))


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


def has_teacher(context: SpecContext) -> bool:
    """Whether the project has a teacher. The embedded model, which is the default, is none if there are no prompts and
    no experiment trains it: it would be unpacked, and scored, for nothing."""
    teacher = context.project.settings.teacher
    if teacher.endpoint is not None or teacher.model != EMBEDDED or EMBEDDED in bases_of_experiments(context):
        return True
    unlabelled = context.find("unlabelled")
    return unlabelled is not None and count_prompts(unlabelled.path) > 0


def run(job: Job) -> dict[str, Any]:
    """Write the model as plain safetensors (models/base_model.py)."""
    from ft_pipeline.models import base_model

    return base_model.run(job)


def page(artifact: Artifact) -> Page:
    """Which model it is."""
    return {key: artifact.summary.get(key) or None for key in SHOWN}


STEP = step_of(__name__, stage="training", deps=("experiment",), per_experiment=True, kinds=frozenset({"huggingface"}))
