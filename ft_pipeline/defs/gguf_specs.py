"""Specs of GGUF files and of their scores: of an experiment's merged model, or of any other one."""

from dataclasses import replace

from ft_pipeline.defs.scoring_specs import scores_spec
from ft_pipeline.errors import UserError
from ft_pipeline.models.llama_cpp.library import installed_versions
from ft_pipeline.settings.gguf_types import in_order, parse_types
from ft_pipeline.step import STEPS, SpecContext
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

NOTHING: dict[str, list[str]] = {"types": []}
"""The config of an artifact without files, for an experiment that wants no GGUF files."""


def wanted_types(context: SpecContext) -> list[str]:
    """Return the types of GGUF files of the experiment: those in its YAML as it is now, those that the run asks for,
    and those that were made of its current merged model before. UserError for an unknown type."""
    assert context.experiment is not None
    asked_for = parse_types(",".join(context.gguf_types)) if context.gguf_types else ()
    settings = context.project.experiment(context.experiment)
    made, merged_model = context.find("gguf"), context.find("merged_model")
    kept = types_of(made) if made and merged_model and is_of_model(made, merged_model) else []
    return in_order([*settings.gguf, *asked_for, *kept])


def types_of(gguf: Artifact) -> list[str]:
    """Return the types of the files in a gguf artifact."""
    types: list[str] = gguf.spec["config"]["types"]
    return types


def is_of_model(made: Artifact, merged_model: Artifact) -> bool:
    """Return whether GGUF files, or their scores, were made of this merged model."""
    return made.inputs.get("merged_model") == merged_model.reference


def gguf_spec(context: SpecContext, merged_model: Artifact, experiment: str, types: list[str]) -> Spec:
    """Return the spec of the GGUF files of a merged model. UserError if it has no weights, or without llama.cpp."""
    if merged_model.summary["mode"] == "none":
        raise UserError(
            f"{experiment} is a learned prompt without merged weights, so there is no GGUF file of it. Export it "
            "without --format gguf."
        )
    config = {"name": f"{context.project.settings.name}-{experiment}", "types": types}
    return Spec("gguf", {"merged_model": merged_model.reference}, config, installed_versions())


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
