"""How good each GGUF file is, answered by llama.cpp, and what its quantization costs. Empty without GGUF files.

**Look here** before you deploy a small file.

**If `gguf_gate` is yellow:** a file costs more than `evaluation.gguf` allows. Take a larger type (docs/gguf.md).
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ft_pipeline.decide.seen import may_be_screened_out
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.score import Score, describe_score
from ft_pipeline.gguf import gguf
from ft_pipeline.gguf.gguf import types_of
from ft_pipeline.gguf.library import installed_versions
from ft_pipeline.gguf.settings import EvaluationKeys, in_order
from ft_pipeline.job import Job
from ft_pipeline.page import Page, Points, Table
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, BuildContext, CheckSpec, SpecContext, has_result, step_of
from ft_pipeline.steps.shared.score_pages import TESTS_ARE_COMPARED, scores_page
from ft_pipeline.steps.shared.scoring_specs import scores_spec
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec


def used(project: Project) -> bool:
    """Return whether there are files to score, or were some."""
    return has_result(project, "gguf_scores") or gguf.used(project)


def spec(context: SpecContext) -> Spec:
    """Return the spec of the scores of this experiment's files."""
    files = context.artifact("gguf")
    if not types_of(files):
        return Spec("gguf_scores", config={"types": []})
    return gguf_scores_spec(context, files, context.artifact("scores"))


def gguf_scores_spec(context: SpecContext, gguf: Artifact, scores: Artifact) -> Spec:
    """Return the spec of the scores of GGUF files, on the rows on which `scores` scored their merged model.

    The limits of the gate are not part of it: they change no measurement. Raises UserError if the scores are of another
    merged model.
    """
    if gguf.inputs["merged_model"] != scores.inputs["merged_model"]:
        raise UserError("gguf was made of an earlier merged model. Materialize it first, or run `ft run`.")
    inputs = {name: scores.inputs[name] for name in ("base_model", "merged_model")}
    keys = ("technique", "quantization", "system_prompt", "reasoning")
    served = {key: scores.spec["config"][key] for key in keys if key in scores.spec["config"]}
    spec = scores_spec(context, {**inputs, "gguf": gguf.reference, "scores": scores.reference}, served)
    settings = context.project.settings
    judged_by = {
        "limits": EvaluationKeys.of(settings.evaluation).gguf.model_dump(mode="json"),
        "rails": settings.promotion.rails,
    }
    versions = spec.versions | installed_versions()
    handling = {**spec.handling, **judged_by}
    made = replace(spec, kind="gguf_scores", versions=versions, handling=handling)
    return replace(made, handling={**handling, "earlier": _earlier_scores(context, made)})


def _earlier_scores(context: SpecContext, spec: Spec) -> dict[str, str] | None:
    """Return the folders of the last scores, and of the files that they are of, if only the set of files differs: what
    was measured of a file then is not measured again."""
    last = context.find("gguf_scores")
    if last is None or last.redacted or "gguf" not in last.inputs:
        return None
    files = context.store.open(*last.inputs["gguf"])
    wanted = spec.with_code_version(STEPS["gguf_scores"].code_version).to_json()
    same = {**wanted, "inputs": {**wanted["inputs"], "gguf": last.spec["inputs"]["gguf"]}} == last.spec
    return {"scores": str(last.path), "gguf": str(files.path)} if same and files else None


def compared(context: SpecContext, scored: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The scores of GGUF files by `<experiment>/gguf_scores`, of each merged model that is compared."""
    found = {}
    for name in context.project.experiment_names():
        scores, made = scored.get(f"{name}/scores"), context.find("gguf_scores", name)
        if scores and made and made.inputs.get("merged_model") == scores.inputs["merged_model"]:
            found[f"{name}/gguf_scores"] = made
    return found


def builds_here(spec: Spec) -> bool:
    """Whether there is nothing to score."""
    return not spec.inputs


def run(job: Job) -> dict[str, Any]:
    """Score each file with llama.cpp (evaluation/scoring/gguf_scores.py)."""
    from ft_pipeline.gguf import scoring as gguf_scores

    return gguf_scores.run(job)


def build(build: BuildContext) -> dict[str, Any]:
    """Write that there are no files."""
    document: dict[str, Any] = {"rows": [], "evaluation": {}, "metrics": {}}
    (build.out / "scores.json").write_text(json.dumps(document), encoding="utf-8")
    return {"rows": [], "costs": {}}


def page(artifact: Artifact) -> Page:
    """What each file costs in quality."""
    if not artifact.summary["rows"]:
        return {}
    measured = artifact.summary["costs"]
    costs = [
        {
            "type": name,
            **{measure: describe_score(Score(**cost), 4) for measure, cost in measured[name].items()},
        }
        for name in in_order(measured)
    ]
    of_merged = ArtifactStore(Project.find().store).open(*artifact.inputs["scores"])
    if of_merged is None or may_be_screened_out(of_merged.path):
        return {"costs": Table(costs), "notes": Points([TESTS_ARE_COMPARED])}
    return {"costs": Table(costs), **scores_page(artifact)}


CHECKS = (CheckSpec("gguf_gate", "Each GGUF file costs no more than evaluation.gguf allows.", False, optional=True),)

STEP = step_of(
    __name__,
    stage="evaluation",
    per_experiment=True,
    deps=("experiment", "base_model", "conversations", "merged_model", "scores", "gguf"),
    kinds=frozenset({"gguf"}),
    code_version="2",
)
