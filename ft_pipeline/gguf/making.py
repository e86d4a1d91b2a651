"""Make the GGUF files of a model, with their scores, for `ft export`: in the graph, or beside it for an older model."""

import contextlib
from collections.abc import Callable, Sequence

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.tuned_variants import without_variant
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.graph import load_steps
from ft_pipeline.execution.run import RELEASE, RunRequest, plan_run, run
from ft_pipeline.gguf.scored_files import ScoredFiles
from ft_pipeline.gguf.settings import DEFAULT_GGUF_TYPE, ExperimentKeys, in_order
from ft_pipeline.project import Project
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.step import STEPS, MissingInput, SpecContext
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.locks import project_lock
from ft_pipeline.store.spec import Spec

ASSETS = ("gguf", "gguf_scores", "comparison")


def types_to_export(project: Project, model: ModelReference, quantize: Sequence[str] | None) -> list[str]:
    """Return the types to export: those asked for, those in the experiment's YAML, or q8_0."""
    configured: list[str] = []
    if model.experiment is not None:
        with contextlib.suppress(UserError):  # the champion's experiment may be gone
            configured = ExperimentKeys.of(project.experiment(model.experiment)).gguf
    return in_order(quantize or configured or [DEFAULT_GGUF_TYPE])


def is_current(store: ArtifactStore, project: Project, model: ModelReference) -> bool:
    """Return whether the model is its experiment's current merged model, so that its files are part of the graph."""
    load_steps()
    current = SpecContext(project, store, model.experiment).find("merged_model") if model.experiment else None
    return (
        current is not None
        and current.fingerprint == model.fingerprints["merged_model"]
        and model.experiment in project.experiment_names()
    )


def make_in_graph(project: Project, store: ArtifactStore, model: ModelReference, types: Sequence[str]) -> ScoredFiles:
    """Materialize the GGUF files of an experiment, their scores and the comparison.

    What follows from the comparison is materialized too if everything was up to date before. Otherwise it would decide
    about results that the user has not asked for. Raises UserError if a step failed.
    """
    assert model.experiment is not None
    was_fresh = not any(step.runs for step in plan_run(RunRequest(project, (model.experiment,))))
    select = (*ASSETS, *(RELEASE if was_fresh else ()))
    outcome = run(RunRequest(project, (model.experiment,), select, asked={"gguf": types}))
    if not outcome.succeeded:
        raise UserError(outcome.failures[0])
    context = SpecContext(project, store, model.experiment)
    return ScoredFiles(context.artifact("gguf"), context.artifact("gguf_scores"))


def make_beside_graph(
    project: Project, store: ArtifactStore, model: ModelReference, types: Sequence[str]
) -> ScoredFiles:
    """Build the GGUF files of a model that is no experiment's current one, and score them on the current test rows."""
    load_steps()
    from ft_pipeline.gguf.gguf import gguf_spec
    from ft_pipeline.gguf.gguf_scores import gguf_scores_spec
    from ft_pipeline.steps.shared.scoring_specs import scores_spec

    context = SpecContext(project, store, model.experiment)
    merged_model = store.require("merged_model", model.fingerprints["merged_model"])
    inputs = {role: (role, model.fingerprints[role]) for role in ("base_model", "adapter", "merged_model")}

    def build(make_spec: Callable[[], Spec]) -> Artifact:
        while True:
            try:
                spec = make_spec()
                break
            except MissingInput as missing:
                build_artifact(None, store, missing.spec, device=STEPS["scores"].needs_gpu(project))
        return build_artifact(None, store, spec.with_code_version(STEPS[spec.kind].code_version)).artifact

    with project_lock(store.root).hold(lambda message: None, shared=True):
        files = build(lambda: gguf_spec(context, merged_model, model.experiment or model.name, list(types)))
        scores = build(lambda: scores_spec(context, inputs, without_variant(model.serving)))
        return ScoredFiles(files, build(lambda: gguf_scores_spec(context, files, scores)))
