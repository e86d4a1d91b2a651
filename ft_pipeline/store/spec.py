"""The spec of an artifact, known before it is built. The hash of the spec finds the artifact."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ft_pipeline.store.hashing import sha256_of_json

ArtifactReference = tuple[str, str]
"""(kind, fingerprint): how a spec, a pointer or a record names an artifact."""
NAME_DIGITS = 16
"""Number of digits of a hash in the names of folders and locks, and in messages."""
RETIRED_VERSIONS = {"adapter": frozenset({"trl"})}
"""Kind → libraries that its specs named once, although they changed no result. Artifacts with them stay up to date."""


@dataclass(frozen=True)
class Spec:
    """One step, resolved. Equal specs are expected to give equal artifacts; nothing else may influence the result."""

    kind: str
    inputs: dict[str, ArtifactReference] = field(default_factory=dict)
    """The artifacts that are read, by name."""
    config: dict[str, Any] = field(default_factory=dict)
    """Resolved settings, plain JSON without NaN, and without a path of this machine."""
    versions: dict[str, str] = field(default_factory=dict)
    """The code and library versions that matter for the result."""
    seed: int = 0
    handling: dict[str, Any] = field(default_factory=dict, compare=False)
    """Settings that affect how the work is done but not its result: rates, budgets, prices. Plain JSON that the worker
    receives. It is not part of the hash, so that a higher budget makes nothing stale."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that is hashed and written to the manifest."""
        inputs = {name: {"kind": kind, "fingerprint": fingerprint} for name, (kind, fingerprint) in self.inputs.items()}
        return {
            "kind": self.kind,
            "inputs": inputs,
            "config": self.config,
            "versions": self.versions,
            "seed": self.seed,
        }

    def seeds(self) -> dict[str, int]:
        """Return every seed of the step by its location: `seed`, and those in its settings."""
        return {"seed": self.seed, **dict(_find_seeds(self.config, ""))}

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256; ValueError if the config is not plain JSON."""
        return sha256_of_json(self.to_json())

    def with_code_version(self, version: str) -> "Spec":
        """Return the same spec with another version of the step's code."""
        return replace(self, versions=self.versions | {"code": version})


def without_retired_versions(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec in its JSON form as it is written now: without RETIRED_VERSIONS."""
    retired = RETIRED_VERSIONS.get(spec["kind"], frozenset())
    return {**spec, "versions": {key: value for key, value in spec["versions"].items() if key not in retired}}


def _find_seeds(config: dict[str, Any], prefix: str) -> Iterator[tuple[str, int]]:
    """Yield (location, seed) for each seed in the settings. A location is dotted: `training.seed`."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _find_seeds(value, f"{prefix}{key}.")
        elif key in {"seed", "seeds"} and isinstance(value, int):
            yield f"{prefix}{key}", value
