"""A step of the pipeline: how its spec is computed, how its artifact is built, and what its checks are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.recorded_checks import require_passed
from ft_pipeline.project import Project
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.spec import Spec


@dataclass(frozen=True)
class CheckSpec:
    """A check that the step's summary answers under `checks`; a blocking one stops the run when it fails."""

    name: str
    description: str
    blocking: bool = True


@dataclass(frozen=True)
class SpecContext:
    """What a step may look at while it resolves its spec: the project's settings and what is materialized now."""

    project: Project
    store: ArtifactStore
    experiment: str | None = None
    make: Callable[[Spec], Artifact] | None = None
    """Builds what the step needs beside its upstream assets; None while planning, which builds nothing."""

    @cached_property
    def settings(self) -> ExperimentSettings:
        """This partition's experiment, as its YAML says now."""
        if self.experiment is None:
            raise LookupError("this step has no experiment")
        return self.project.experiment(self.experiment)

    def find(self, asset: str, experiment: str | None = None) -> Artifact | None:
        """The artifact that `asset` was last materialized to; None if it never was, or is damaged."""
        pointer = self.pointer(asset, experiment)
        if pointer is None:
            return None
        return self.store.open(pointer.kind, pointer.fingerprint, manifest_sha256=pointer.manifest_sha256)

    def pointer(self, asset: str, experiment: str | None = None) -> Pointer | None:
        """What `asset` was last materialized to, held whole by the store or not; None if it never was."""
        per_experiment = STEPS[asset].per_experiment
        return AssetPointers(self.store.root).read(asset, (experiment or self.experiment) if per_experiment else None)

    def artifact(self, asset: str) -> Artifact:
        """The artifact that `asset` was last materialized to. UserError if it never was, or is damaged."""
        found = self.find(asset)
        if found is None:
            why = "is damaged, or gone from the store" if self.pointer(asset) else "has not been materialized yet"
            raise UserError(f"{asset} {why}; materialize it first, or run `ft run`")
        if found.redacted:
            raise UserError(f"a row of {asset} was forgotten since; materialize it again first, or run `ft run`")
        return found

    def passed(self, asset: str) -> Artifact:
        """The same, and its recorded gates are read again: UserError where a blocking check failed.

        Dagster's blocking checks hold within one run only; whoever materializes a single asset passes them by.
        """
        return require_passed(self.artifact(asset))

    def made(self, spec: Spec) -> Artifact:
        """The artifact of a spec that is no asset's own (the teacher's model), built where it is not in the store.

        NotYetBuilt while planning, if it is not there.
        """
        if spec.kind in STEPS:
            spec = spec.with_code_version(STEPS[spec.kind].code_version)  # the same spec as the asset of that kind has
        found = self.store.find(spec)
        if found is not None:
            return found
        if self.make is None:
            raise MissingInput(f"the {spec.kind} that it needs is not in the store yet")
        return self.make(spec)


class MissingInput(Exception):
    """A plan cannot tell the spec of a step before something else is built."""


@dataclass(frozen=True)
class BuildContext:
    """What a step that is light enough for the step's own process makes its artifact from."""

    project: Project
    store: ArtifactStore
    spec: Spec
    inputs: Mapping[str, Path]
    """Folders of the spec's inputs, by name."""
    out: Path
    """Takes the artifact's files."""

    def artifact(self, name: str) -> Artifact:
        """An input of the spec, with its manifest."""
        return self.store.require(*self.spec.inputs[name])


SpecFunction = Callable[[SpecContext], Spec]
MakeFunction = Callable[[BuildContext], dict[str, Any]]
ShowFunction = Callable[[Artifact], dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """One asset of the graph, as planning sees it."""

    name: str
    stage: str
    deps: tuple[str, ...]
    per_experiment: bool
    gpu: Callable[[Project], bool]
    """Whether its worker leases a device, as the project's settings are now."""
    code_version: str
    checks: tuple[CheckSpec, ...]
    spec: SpecFunction
    build: MakeFunction | None
    show: ShowFunction | None
    asset: dg.AssetsDefinition


STEPS: dict[str, Step] = {}
"""Every step by its asset's name, in the order of the flow; filled as defs/ is loaded."""


def versions_of(*packages: str) -> dict[str, str]:
    """The installed versions of the packages that the result depends on; nothing is imported."""
    return {package: version(package) for package in packages}
