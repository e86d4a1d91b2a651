"""A step of the pipeline: what it depends on, how its artifact is made, checked and shown. Without Dagster and torch.

execution/step_asset.py makes Dagster's assets of these records; planning and the workers read them, too.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, Self

from pydantic import PlainSerializer

from ft_pipeline.errors import UserError
from ft_pipeline.events import Progress, StepEvent, publish
from ft_pipeline.job import Job
from ft_pipeline.page import Page
from ft_pipeline.project import Project, ProjectSnapshot
from ft_pipeline.recorded_checks import require_passed
from ft_pipeline.settings.yaml_file import Section
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.spec import ArtifactReference, Spec

VERSION_SECONDS = 10
"""Time after which the version of a package is read again: a service may live longer than an installed version."""


@dataclass(frozen=True)
class CheckSpec:
    """A check whose result is in the step's summary, under `checks`. A blocking check that fails stops the run."""

    name: str
    description: str
    blocking: bool = True
    optional: bool = False
    """Whether an artifact without a result passes: it has nothing that is checked."""


Asked = Mapping[str, Sequence[str]]
"""Step → what a run asks of it, besides what the experiment's YAML does, such as types of files."""


@dataclass(frozen=True)
class SpecContext:
    """What a step's spec function can read: the project's settings and the latest artifacts."""

    project: Project
    store: ArtifactStore
    experiment: str | None = None
    asked: Asked = field(default_factory=dict)
    report: Callable[[Progress], None] | None = None
    """Given while the step is materialized: only then may its spec need the network, and report what it downloads."""

    def find(self, asset: str, experiment: str | None = None) -> Artifact | None:
        """Return the latest artifact of `asset`; None if it was never materialized, or is damaged.

        experiment: by default the experiment of this context. Ignored for an asset that all experiments share.
        """
        pointer = self.pointer(asset, experiment)
        if pointer is None:
            return None
        return self.store.open(pointer.kind, pointer.fingerprint, manifest_sha256=pointer.manifest_sha256)

    def pointer(self, asset: str, experiment: str | None = None) -> Pointer | None:
        """Return the pointer to the latest artifact of `asset`, damaged or not; None if it was never materialized."""
        per_experiment = STEPS[asset].per_experiment
        return AssetPointers(self.store.root).read(asset, (experiment or self.experiment) if per_experiment else None)

    def artifact(self, asset: str) -> Artifact:
        """Return the latest artifact of `asset`.

        Raises UserError if it was never materialized, is damaged, or had a row erased.
        """
        artifact = self.find(asset)
        if artifact is None:
            state = "is damaged or missing from the store" if self.pointer(asset) else "has not been materialized yet"
            raise UserError(f"{asset} {state}. Materialize it first, or run `ft run`.")
        if artifact.redacted:
            raise UserError(f"A row was erased from {asset}. Materialize it again first, or run `ft run`.")
        return artifact

    def checked_artifact(self, asset: str) -> Artifact:
        """Return the latest artifact of `asset`, whose recorded checks are read again.

        Raises UserError as `artifact` does, and if a blocking check failed. Dagster's blocking checks apply within one
        run only. Materializing a single asset would skip them.
        """
        return require_passed(self.artifact(asset))

    def built_artifact(self, spec: Spec) -> Artifact:
        """Return the artifact of a spec that need not be an asset's, such as the teacher's model.

        Raises MissingInput if the store does not have it, because computing a spec builds nothing.
        """
        artifact = self.find_built(spec)
        if artifact is None:
            raise MissingInput(spec_of_its_asset(spec))
        return artifact

    def find_built(self, spec: Spec) -> Artifact | None:
        """Return the artifact of a spec, as `built_artifact` does; None if the store does not have it."""
        return self.store.find(spec_of_its_asset(spec))


def spec_of_its_asset(spec: Spec) -> Spec:
    """Return the spec as the specs of the asset of its kind are, if it has one."""
    return spec.with_code_version(STEPS[spec.kind].code_version) if spec.kind in STEPS else spec


class MissingInput(Exception):
    """A spec cannot be computed before the artifact of another spec is built."""

    def __init__(self, spec: Spec, also: Sequence[Spec] = ()) -> None:
        """also: further specs that are missing. What all of them send to servers is part of the message."""
        self.plan = "; ".join(entry.handling["plan"] for entry in (spec, *also) if "plan" in entry.handling)
        plan = f" ({self.plan})" if self.plan else ""
        super().__init__(f"the {spec.kind} that it needs is not in the store yet{plan}")
        self.spec = spec


@dataclass(frozen=True)
class BuildContext:
    """What a step's build function reads, and where it writes. It runs in this process, so it must be light."""

    project: Project
    store: ArtifactStore
    spec: Spec
    inputs: Mapping[str, Path]
    """Folders of the spec's inputs, by name."""
    out: Path
    """The folder for the artifact's files."""

    def artifact(self, name: str) -> Artifact:
        """Return an input of the spec, with its manifest."""
        return self.store.require(*self.spec.inputs[name])

    def write_json(self, name: str, content: Any) -> None:
        """Write a document for people to read, too."""
        write_json(self.out / name, content)

    def note(self, message: str) -> None:
        """Show a note in the terminal of the run."""
        publish(StepEvent(self.spec.kind, None, "notes", message=message))


def write_json(path: Path, content: Any) -> None:
    """Write a document for people to read, too."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


class HasConfig(Protocol):
    """A spec, or a job."""

    @property
    def config(self) -> dict[str, Any]: ...


class StepConfig(Section):
    """What the result of a step depends on, besides its inputs. It is hashed, and the worker reads it."""

    @classmethod
    def of(cls, source: HasConfig) -> Self:
        return cls.model_validate(source.config)


def only(*keys: str) -> PlainSerializer:
    """Annotate settings of which a step's config has some keys. The worker reads defaults for the others."""
    return PlainSerializer(lambda settings: settings.model_dump(mode="json", include=set(keys)), return_type=dict)


def without(*keys: str) -> PlainSerializer:
    """Annotate settings of which a step's config has all keys but some."""
    return PlainSerializer(lambda settings: settings.model_dump(mode="json", exclude=set(keys)), return_type=dict)


def references(inputs: Mapping[str, Artifact]) -> dict[str, ArtifactReference]:
    """Return the inputs as a spec names them: name → (kind, fingerprint)."""
    return {name: artifact.reference for name, artifact in inputs.items()}


def spec_of(kind: str, inputs: Mapping[str, Artifact], config: StepConfig, libraries: Sequence[str] = ()) -> Spec:
    """Return the spec of an artifact. libraries: the packages whose version matters."""
    return Spec(kind, references(inputs), config.model_dump(mode="json"), versions_of(*libraries))


SpecFunction = Callable[[SpecContext], Spec]
StepBuildFunction = Callable[[BuildContext], dict[str, Any]]
"""Writes the artifact's files to `out`, and returns its summary."""
PageFunction = Callable[[Artifact], Page]
OfProject = bool | Callable[[Project], bool]
"""A fact that may depend on the settings of a project."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One asset of the graph."""

    name: str
    """Of the asset, and of the kind of its artifact."""
    stage: str
    about: str | Callable[[], str]
    """What people read about it: what it is, where to look, what to do if it fails."""
    spec: SpecFunction
    """What of the store and the settings the result depends on."""
    deps: tuple[str, ...] = ()
    per_experiment: bool = False
    config: type[StepConfig] | None = None
    """The type of the config of its specs; None: a step without a file in steps/."""
    run: Callable[[Job], dict[str, Any]] | None = None
    """Makes the artifact in a worker process, and returns its summary. Only here are heavy libraries imported. None:
    workers/worker.py names the function."""
    build: StepBuildFunction | None = None
    """Makes the artifact in this process, if that is light."""
    builds_here: Callable[[Spec], bool] = lambda spec: True
    """Whether `build` builds a spec; otherwise a worker does."""
    code_version: str = "1"
    """Another one makes every older artifact of the step again."""
    checks: tuple[CheckSpec, ...] = ()
    page: PageFunction | None = None
    kinds: frozenset[str] = frozenset()
    """Labels in the UI."""
    gpu: OfProject = False
    """Whether its worker leases a device."""
    may_use_gpu: OfProject = False
    """Whether an input that is missing may be built by a worker that leases a device, before the step itself."""
    look: Callable[[SpecContext, Artifact], None] | None = None
    """Records that test scores are about to be seen. It is called before the asset points to the artifact."""
    announce: Callable[[SpecContext], str] | None = None
    """Says what a run may send to a server, while the steps before it have still to run. Empty: nothing."""
    used: OfProject = True
    """Whether settings or files of the project ask for it. Graph and plan leave a step out that nothing asks for."""

    @property
    def description(self) -> str:
        """What people read about it, in the project that is served."""
        return self.about() if callable(self.about) else self.about

    def needs_gpu(self, project: Project) -> bool:
        return self.gpu(project) if callable(self.gpu) else self.gpu

    def may_need_gpu(self, project: Project) -> bool:
        return self.may_use_gpu(project) if callable(self.may_use_gpu) else self.may_use_gpu

    def is_used(self, project: Project) -> bool:
        return self.used(project) if callable(self.used) else self.used


PARTS = {"about": "__doc__", "config": "Config", "checks": "CHECKS"} | {
    part: part for part in ("spec", "run", "build", "builds_here", "look", "announce", "page", "used")
}
"""Fact of a step → its name in the step's file."""


def step_of(module: str, **facts: Any) -> Step:
    """Return the step that a file in steps/ describes: the name of the file, and those of the PARTS that it has."""
    found = vars(sys.modules[module])
    parts = {fact: found[name] for fact, name in PARTS.items() if name in found}
    return Step(name=module.rpartition(".")[2], **{**parts, **facts})


STEPS: dict[str, Step] = {}
"""Every step by the name of its asset, in the order of the stages. execution/graph.py fills it."""


def used_steps(project: Project) -> set[str]:
    """Return the names of the steps that the graph of a project has. All if its settings cannot be read: every run
    reports that."""
    project = ProjectSnapshot(project.root)  # each experiment is read once
    try:
        _ = project.settings
    except UserError:
        return set(STEPS)
    return {name for name, step in STEPS.items() if step.is_used(project)}


def has_result(project: Project, name: str) -> bool:
    """Return whether the latest artifact of a step, of any experiment, was made from inputs: its step is then used
    until it is materialized again, and those after it take notice."""
    context = SpecContext(project, ArtifactStore(project.store))
    experiments = project.experiment_names() if STEPS[name].per_experiment else [None]
    return any((made := context.find(name, experiment)) is not None and made.inputs for experiment in experiments)


def versions_of(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages, without importing them."""
    return {package: _version_of(package, int(time.monotonic() // VERSION_SECONDS)) for package in packages}


@functools.lru_cache(maxsize=128)
def _version_of(package: str, period: int) -> str:
    """Read a version once in a period: a plan for 100 experiments asks thousands of times."""
    return version(package)


def planned_spec(step: Step, context: SpecContext) -> Spec:
    """Return the spec that materializing `step` now would build.

    Raises UserError if it cannot be computed, and MissingInput if an input that belongs to no asset is not built yet.
    """
    return step.spec(context).with_code_version(step.code_version)


def spec_with_inputs(step: Step, context: SpecContext, build_missing: Callable[[Spec], object]) -> Spec:
    """Return the planned spec of `step`. Calls `build_missing` with the spec of each input that is not built yet."""
    while True:
        try:
            return planned_spec(step, context)
        except MissingInput as missing:
            build_missing(missing.spec)
