"""What a run of the present code would do again on a store that older code finished, and what the list says of it."""

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
from ft_pipeline.errors import UserError
from ft_pipeline.execution.planning import Planned, difference, plan
from ft_pipeline.execution.recorded_checks import failed_checks
from ft_pipeline.execution.step import STEPS, MissingInput, SpecContext
from ft_pipeline.execution.step_asset import planned_spec
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore

LIST = Path(__file__).with_name("runs_again.yaml")
Section = Literal["changed", "follows"]
SECTIONS: tuple[Section, ...] = ("changed", "follows")
ADVICE = (
    f"The plan for an old store is not what {LIST.name} says. If you did not mean to change a step, keep its spec as "
    f"it was (docs/architecture.md). If you did, edit {LIST.name}, with the reason, and tell users in CHANGELOG.md."
)


@dataclass(frozen=True)
class Rerun:
    """A step that would run again."""

    section: Section
    why: str


def reruns(root: Path) -> dict[str, Rerun]:
    """By `step` or `step [experiment]`, all that `ft run` would do again in the project `root`.

    AssertionError where a step cannot be planned at all.
    """
    with _as_made(root) as project:
        planned = plan(project, project.experiment_names())
        broken = {label(step): step.reason for step in planned if step.state == "broken"}
        assert not broken, f"the old project cannot be planned: {broken}"
        return {label(step): _rerun(project, step) for step in planned if step.runs}


def label(planned: Planned) -> str:
    """The step's name in the list."""
    return f"{planned.asset} [{planned.experiment}]" if planned.experiment else planned.asset


@contextlib.contextmanager
def _as_made(root: Path) -> Iterator[Project]:
    """The project, as the machine that made its store would plan it.

    Specs contain the versions of libraries, so they are taken from the store: an upgrade of a library is not what is
    tested. Python, the processor and the type of the arithmetic are in the manifests and in no spec. The models' paths
    are relative to the project folder.
    """
    recorded = library_versions(ArtifactStore(root / "data" / "store"))
    with pytest.MonkeyPatch.context() as patch:
        # Loaded once per process, with the experiments of the project open then; other tests expect the shipped ones.
        patch.setenv("FT_PROJECT", str(scaffold.home()))
        from ft_pipeline.definitions import defs

        defs()  # fills STEPS
        patch.setenv("FT_PROJECT", str(root))
        patch.chdir(root)
        installed = importlib.metadata.version
        patch.setattr("ft_pipeline.execution.step.version", lambda name: recorded.get(name) or installed(name))
        yield Project.find(root)


def library_versions(store: ArtifactStore) -> dict[str, str]:
    """Package → version, as the specs of the store have them. AssertionError where two specs disagree."""
    named = {pair for artifact in store.all() for pair in artifact.spec["versions"].items() if pair[0] != "code"}
    versions = dict(named)
    assert len(versions) == len(named), f"made with several versions of one library: {sorted(named)}"
    return versions


def _rerun(project: Project, planned: Planned) -> Rerun:
    change = _own_change(SpecContext(project, ArtifactStore(project.store), planned.experiment), planned.asset)
    return Rerun("changed", change) if change else Rerun("follows", planned.reason.partition(" (")[0])


def _own_change(inputs: SpecContext, asset: str) -> str | None:
    """Why the step would run again even if no step before it did; None where it would not.

    A plan alone does not tell: it looks no further than the first step that runs.
    """
    last = inputs.find(asset)
    if last is None:
        return "damaged or missing from the store"
    if last.redacted:
        return "one of its rows was erased"
    try:
        spec = planned_spec(STEPS[asset], inputs)
    except (UserError, MissingInput, ValidationError):
        return None  # it reads what a step before it has yet to make
    if last.spec_hash != spec.hash:
        return difference(last, spec)
    return "; ".join(failed_checks(last)) or None


def read_list(text: str, experiments: Sequence[str]) -> dict[str, Section]:
    """The section of each listed step; `[*]` is every experiment. ValueError for an entry without a reason."""
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
    """Every step that an entry names: `a, b` two steps, `a, b [x, y]` four, `a [*]` one of every experiment."""
    assets, bracket, inside = entry.rstrip("]").partition("[")
    chosen = [name.strip() for name in inside.split(",")]
    of = [f" [{name}]" for name in (experiments if chosen == ["*"] else chosen)] if bracket else [""]
    return [asset.strip() + suffix for asset in assets.split(",") for suffix in of]


def disagreements(planned: Mapping[str, Rerun], listed: Mapping[str, Section]) -> list[str]:
    """Where plan and list differ, a line for each step."""
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
    gone = [
        f"{name} is listed under `{section}` and would not run again."
        for name, section in listed.items()
        if name not in planned
    ]
    return unlisted + misplaced + gone
