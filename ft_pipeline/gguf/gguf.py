"""The merged model as GGUF files, for llama.cpp and Ollama. Empty, unless the experiment or an export asks for one.

**Look here** for the files and their sizes. `gguf_scores` says what each costs in quality.

**If it fails:** llama.cpp does not know the architecture of the model, or the disk is full (docs/gguf.md).
"""

from dataclasses import replace
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.index import INDEX
from ft_pipeline.gguf.library import installed_versions
from ft_pipeline.gguf.settings import ExperimentKeys, in_order, parse_types
from ft_pipeline.job import Job
from ft_pipeline.page import Page, Table
from ft_pipeline.project import Project
from ft_pipeline.settings.yaml_file import later
from ft_pipeline.step import BuildContext, SpecContext, StepConfig, has_result, spec_of, step_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


class Config(StepConfig):
    """Which files are made."""

    name: str = later("")
    """Of the model, in the names of the files. Empty without files."""
    types: list[str]


def used(project: Project) -> bool:
    """Return whether an experiment asks for files, or there are some."""
    return has_result(project, "gguf") or any(
        ExperimentKeys.of(settings).gguf for settings in project.readable_experiments()
    )


def spec(context: SpecContext) -> Spec:
    """Return the spec of this experiment's GGUF files."""
    assert context.experiment is not None
    types = wanted_types(context)
    if not types:
        return spec_of("gguf", {}, Config(types=[]))
    return gguf_spec(context, context.checked_artifact("merged_model"), context.experiment, types)


def gguf_spec(context: SpecContext, merged_model: Artifact, experiment: str, types: list[str]) -> Spec:
    """Return the spec of the GGUF files of a merged model. UserError if it has no weights, or without llama.cpp."""
    if merged_model.summary["mode"] == "none":
        raise UserError(
            f"{experiment} is a learned prompt without merged weights, so there is no GGUF file of it. Export it "
            "without --format gguf."
        )
    config = Config(name=f"{context.project.settings.name}-{experiment}", types=types)
    return replace(spec_of("gguf", {"merged_model": merged_model}, config), versions=installed_versions())


def wanted_types(context: SpecContext) -> list[str]:
    """Return the types of GGUF files of the experiment: those in its YAML as it is now, those that the run asks for,
    and those that were made of its current merged model before. UserError for an unknown type."""
    assert context.experiment is not None
    asked = context.asked.get("gguf", ())
    asked_for = parse_types(",".join(asked)) if asked else ()
    settings = context.project.experiment(context.experiment)
    made, merged_model = context.find("gguf"), context.find("merged_model")
    kept = types_of(made) if made and merged_model and is_of_model(made, merged_model) else []
    return in_order([*ExperimentKeys.of(settings).gguf, *asked_for, *kept])


def types_of(gguf: Artifact) -> list[str]:
    """Return the types of the files in a gguf artifact."""
    types: list[str] = gguf.spec["config"]["types"]
    return types


def is_of_model(made: Artifact, merged_model: Artifact) -> bool:
    """Return whether GGUF files, or their scores, were made of this merged model."""
    return made.inputs.get("merged_model") == merged_model.reference


def build(build: BuildContext) -> dict[str, Any]:
    """Write that there are no files."""
    build.write_json(INDEX, {"name": None, "files": {}})
    return {}


def builds_here(spec: Spec) -> bool:
    """Whether there is nothing to convert."""
    return not spec.inputs


def run(job: Job) -> dict[str, Any]:
    """Convert the merged model, and quantize it to each type (training/gguf/files.py)."""
    from ft_pipeline.gguf import files

    return files.run(job)


def page(artifact: Artifact) -> Page:
    """The files and their sizes."""
    files = [
        {"file": entry["file"], "megabytes": round(entry["bytes"] / 1e6, 1), "note": entry["note"] or ""}
        for entry in artifact.document(INDEX)["files"].values()
    ]
    return {"files": Table(files)} if files else {}


STEP = step_of(__name__, stage="training", deps=("merged_model",), per_experiment=True, kinds=frozenset({"gguf"}))
