"""Steps that the current code would run again on a store of older code, compared with the list runs_again.yaml."""

import contextlib
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import ValidationError

from ft_pipeline import scaffold
from ft_pipeline.decide.build import build
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.training_facts import training_facts_of
from ft_pipeline.execution.planning import PlannedStep, describe_difference, plan
from ft_pipeline.project import Project
from ft_pipeline.recorded_checks import failed_checks
from ft_pipeline.step import STEPS, MissingInput, SpecContext, planned_spec
from ft_pipeline.steps.shared import compared_scores
from ft_pipeline.steps.shared.rival_specs import Rivals
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec

LIST = Path(__file__).with_name("runs_again.yaml")
Section = Literal["changed", "follows"]
SECTIONS: tuple[Section, ...] = ("changed", "follows")


@dataclass(frozen=True)
class Rerun:
    """A step that would run again."""

    section: Section
    why: str


def reruns(root: Path) -> dict[str, Rerun]:
    """Return the steps that `ft run` would repeat in the project `root`, by `step` or `step [experiment]`.

    AssertionError if a step cannot be planned.
    """
    with _project_as_made(root) as project:
        planned = plan(project, project.experiment_names())
        broken = {label(step): step.reason for step in planned if step.state == "broken"}
        assert not broken, f"the old project cannot be planned: {broken}"
        return {label(step): _rerun(project, step) for step in planned if step.runs}


def label(planned: PlannedStep) -> str:
    """The step's name in the list."""
    return f"{planned.asset} [{planned.experiment}]" if planned.experiment else planned.asset


@contextlib.contextmanager
def _project_as_made(root: Path) -> Iterator[Project]:
    """Open the project so that it is planned as on the machine that made its store.

    Specs contain library versions. They are taken from the store, because upgrades of libraries are not tested here.
    The Python version, the processor and the compute type are in manifests but not in specs. The paths of the models
    are relative to the project folder.
    """
    recorded = library_versions(ArtifactStore(root / "data" / "store"))
    with pytest.MonkeyPatch.context() as patch:
        # Definitions load once per process, for the project that is open. Other tests expect the shipped experiments.
        patch.setenv("FT_PROJECT", str(scaffold.example_folder()))
        from ft_pipeline.definitions import defs

        defs()  # fills STEPS
        patch.setenv("FT_PROJECT", str(root))
        patch.chdir(root)
        installed = importlib.metadata.version
        patch.setattr("ft_pipeline.step.version", lambda name: recorded.get(name) or installed(name))
        yield Project.find(root)


def own_spec(root: Path, asset: str, experiment: str) -> Spec:
    """Return the spec that materializing an asset over the artifacts in the store of `root` would build."""
    with _project_as_made(root) as project:
        return planned_spec(STEPS[asset], SpecContext(project, ArtifactStore(project.store), experiment))


def compared_again(root: Path) -> Comparison:
    """Return the comparison of the scores in the store of `root`, without its champion and answers without a language
    model, which must be scored first."""
    with _project_as_made(root) as project, pytest.MonkeyPatch.context() as patch:
        patch.setattr(compared_scores, "champion_before", lambda *_: None)
        patch.setattr(compared_scores, "rival_artifacts", lambda *_: Rivals({}, []))
        patch.setattr(compared_scores, "calibrated_artifacts", lambda *_: Rivals({}, []))
        store = ArtifactStore(root / "data" / "store")
        inputs, config, _ = compared_scores.compared_scores(SpecContext(project, store))
        folders = {name: store.require(*reference).path for name, reference in inputs.items()}
        return build(folders, config, training_facts_of(store, inputs))


def has_installed_versions(root: Path) -> bool:
    """Whether a project was made with the installed versions of its libraries, so that `ft run` has nothing to do."""
    recorded = library_versions(ArtifactStore(root / "data" / "store"))
    return all(importlib.metadata.version(name) == version for name, version in recorded.items())


def library_versions(store: ArtifactStore) -> dict[str, str]:
    """Return package → version from the specs of the store. AssertionError if two specs disagree."""
    named = {pair for artifact in store.all() for pair in artifact.spec["versions"].items() if pair[0] != "code"}
    versions = dict(named)
    assert len(versions) == len(named), f"made with several versions of one library: {sorted(named)}"
    return versions


def _rerun(project: Project, planned: PlannedStep) -> Rerun:
    change = _own_change(SpecContext(project, ArtifactStore(project.store), planned.experiment), planned.asset)
    return Rerun("changed", change) if change else Rerun("follows", planned.reason.partition(" (")[0])


def _own_change(context: SpecContext, asset: str) -> str | None:
    """Why the step would run again even if no step before it did, or None.

    A plan does not show this, because it stops at the first step that runs.
    """
    latest = context.find(asset)
    if latest is None:
        return "damaged or missing from the store"
    if latest.redacted:
        return "one of its rows was erased"
    try:
        spec = planned_spec(STEPS[asset], context)
    except (UserError, MissingInput, ValidationError):
        return None  # it needs the output of a step that has not run yet
    if not latest.is_of(spec):
        return describe_difference(latest, spec)
    return "; ".join(failed_checks(latest)) or None


def advice(path: Path) -> str:
    """What to do if a plan is not what the list in `path` says."""
    return (
        f"The plan for an old store is not what {path.name} says. If you did not mean to change a step, keep its spec "
        f"as it was (docs/architecture.md). If you did, edit {path.name}, with the reason, and tell users in "
        "CHANGELOG.md."
    )


def read_list(text: str, experiments: Sequence[str]) -> dict[str, Section]:
    """Return the section of each listed step; `[*]` is every experiment. ValueError if an entry has no reason."""
    document = yaml.safe_load(text)
    if sorted(document) != sorted(SECTIONS):
        raise ValueError(f"{LIST.name}: sections {sorted(document)}. Write {' and '.join(SECTIONS)}.")
    listed: dict[str, Section] = {}
    for section in SECTIONS:
        for entry, reason in (document[section] or {}).items():
            if not isinstance(reason, str) or not reason.strip().endswith(".") or len(reason.split()) < 3:
                raise ValueError(f"{LIST.name}: {entry!r} has no reason. Give it one sentence, with its period.")
            for name in _names(entry, experiments):
                if name in listed:
                    raise ValueError(f"{LIST.name}: {name!r} is listed twice. Remove one entry.")
                listed[name] = section
    return listed


def _names(entry: str, experiments: Sequence[str]) -> list[str]:
    """The steps that an entry names: two for `a, b`, four for `a, b [x, y]`, one per experiment for `a [*]`."""
    assets, bracket, inside = entry.rstrip("]").partition("[")
    chosen = [name.strip() for name in inside.split(",")]
    suffixes = [f" [{name}]" for name in (experiments if chosen == ["*"] else chosen)] if bracket else [""]
    return [asset.strip() + suffix for asset in assets.split(",") for suffix in suffixes]


def disagreements(planned: Mapping[str, Rerun], listed: Mapping[str, Section]) -> list[str]:
    """Return one line for each step where plan and list differ."""
    unlisted = [
        f"{name} would run again: {rerun.why}. It is not listed under `{rerun.section}`."
        for name, rerun in planned.items()
        if name not in listed
    ]
    misplaced = [
        f"{name} is listed under `{listed[name]}` and belongs under `{rerun.section}`: {rerun.why}."
        for name, rerun in planned.items()
        if listed.get(name, rerun.section) != rerun.section
    ]
    obsolete = [
        f"{name} is listed under `{section}` and would not run again."
        for name, section in listed.items()
        if name not in planned
    ]
    return unlisted + misplaced + obsolete
