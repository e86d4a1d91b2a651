"""Specs of GGUF files and of their scores: of an experiment's merged model, or of any other one."""

from dataclasses import replace

from ft_pipeline.defs.scoring_specs import scores_spec
from ft_pipeline.errors import UserError
from ft_pipeline.models.llama_cpp.library import installed_versions
from ft_pipeline.step import STEPS, SpecContext
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


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
    judged_by = {"limits": settings.evaluation.gguf.model_dump(mode="json"), "rails": settings.promotion.rails}
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
