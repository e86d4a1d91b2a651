"""A study: what the trials of one search have in common, and what must be there before the first one."""

from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.machines import device_need
from ft_pipeline.project import Project
from ft_pipeline.search.space import Dimension, Value, current_value, read_space
from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.sweep import is_sweep_member
from ft_pipeline.step import STEPS, MissingInput, SpecContext, spec_of_its_asset
from ft_pipeline.steps.adapter import ADAPTER_SHAPE, ADAPTER_TECHNIQUES, adapter_spec, starting_model
from ft_pipeline.steps.experiment import NOT_IN_SPEC
from ft_pipeline.steps.shared.phases import Phase, experiment_phases, settings_for_base
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.provenance import user_name
from ft_pipeline.store.spec import Spec


@dataclass(frozen=True)
class SweepRequest:
    """The arguments of `ft sweep`."""

    project: Project
    experiment: str
    over: tuple[str, ...]
    budget_seconds: float | None = None
    trials: int | None = None
    seed: int = 42


@dataclass(frozen=True)
class Study:
    """What the trials of one search have in common."""

    context: SpecContext
    name: str
    document: dict[str, Any]
    """The experiment's YAML."""
    space: tuple[Dimension, ...]
    phases: list[Phase]
    base: Artifact
    start: Artifact | None
    """The adapter that every trial continues, if any."""
    seed: int
    id: str

    @property
    def store(self) -> ArtifactStore:
        return self.context.store

    @property
    def objective(self) -> str:
        return self.phases[-1].settings.objective

    @property
    def own_values(self) -> dict[str, Value] | None:
        """The experiment's own values; None if they are not all in the space."""
        settings = settings_for_base(self.phases[-1].settings, self.base)
        values = {dimension.key: current_value(settings, dimension.key) for dimension in self.space}
        inside = all(dimension.contains(values[dimension.key]) for dimension in self.space)
        return values if inside else None


def read_request(request: SweepRequest) -> tuple[dict[str, Any], tuple[Dimension, ...]]:
    """Return the experiment's YAML and the space. UserError if the request cannot be carried out."""
    if is_sweep_member(request.experiment):
        raise UserError(f"{request.experiment!r} has no YAML file of its own. Name the experiment that it belongs to.")
    request.project.experiment(request.experiment)
    if request.budget_seconds is None and request.trials is None:
        raise UserError("A search needs an end. Add --budget 2h, --trials 12, or both.")
    path = request.project.root / "experiments" / f"{request.experiment}.yaml"
    document = load_bounded(path.read_text(encoding="utf-8"))
    space = read_space(request.over, document)
    _require_one_start(request, space)
    return document, space


def _require_one_start(request: SweepRequest, space: tuple[Dimension, ...]) -> None:
    """Raise UserError if some trials would continue the adapter of `start_from`, and others its merged model."""
    chain = request.project.training_chain(request.experiment)
    varied = {dimension.key.partition(".")[0]: dimension for dimension in space}
    shape = [varied[section] for section in ADAPTER_SHAPE if section in varied]
    if len(chain) == 1 or not shape:
        return
    (previous, earlier), (_, own) = chain[-2:]
    techniques = varied["technique"].choices if "technique" in varied else (own.technique,)
    if earlier.technique in ADAPTER_TECHNIQUES and earlier.technique in techniques:
        raise UserError(
            f"--over {shape[0].key}: {request.experiment} continues the adapter of {previous}, so its shape cannot "
            "vary. Leave it out, or search an experiment without `start_from`."
        )


def new_study(request: SweepRequest, document: dict[str, Any], space: tuple[Dimension, ...]) -> Study:
    """Return the study. It is another one if the data, the other settings, the space or the seed change."""
    context = SpecContext(request.project, ArtifactStore(request.project.store), request.experiment)
    phases = experiment_phases(context)
    while True:
        try:
            base, start = starting_model(context, phases)
            break
        except MissingInput as missing:
            build_unlisted(context, request.experiment, missing.spec)
    training = adapter_spec(context, phases[-1], context.artifact("training_data"), base, start)
    data = context.artifact("training_data")
    identity = {
        "settings": _settings_that_stay(settings_for_base(phases[-1].settings, base), space),
        "rewards": training.config.get("rewards"),
        "space": [dimension.to_json() for dimension in space],
        "seed": request.seed,
        "base": base.fingerprint,
        "start": start.fingerprint if start else None,
        "data": data.inputs,
        **{key: data.spec["config"][key] for key in ("relabels",) if key in data.spec["config"]},
    }
    study_id = sha256_of_json(identity)
    return Study(context, request.experiment, document, space, phases, base, start, request.seed, study_id)


def _settings_that_stay(settings: ExperimentSettings, space: tuple[Dimension, ...]) -> dict[str, Any]:
    """Return the settings that training depends on, without those that are varied."""
    document = settings.model_dump(mode="json", exclude=NOT_IN_SPEC | {"description", "gpu", "merge"})
    for dimension in space:
        *sections, last = dimension.key.split(".")
        part = document
        for name in sections:
            part = part.setdefault(name, {})
        part.pop(last, None)
    return document


def build_unlisted(context: SpecContext, experiment: str, spec: Spec, trial: int | None = None) -> Artifact:
    """Find or build an artifact that no asset of the graph has."""
    spec = spec_of_its_asset(spec)
    gpu = STEPS[spec.kind].needs_gpu(context.project)
    device = device_need(context.project, experiment, spec.kind) if gpu else False
    label = None if trial is None else f"{spec.kind} [{trial_name(trial)}]"
    info = run_info_of_trial(experiment, trial)
    return build_artifact(None, context.store, spec, device=device, run_info=info, label=label).artifact


def trial_name(number: int) -> str:
    """Return what users see of a trial while it runs, in place of an experiment."""
    return f"try{number}"


def run_info_of_trial(experiment: str, trial: int | None) -> dict[str, Any]:
    """Return what a manifest says about who built it."""
    return {"run_id": None, "started_by": f"cli {user_name()}", "sweep_of": experiment, "trial": trial}
