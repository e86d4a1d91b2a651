"""The spec of an artifact, known before it is built. The hash of the spec finds the artifact."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ft_pipeline.store.hashing import sha256_of_json


@dataclass(frozen=True)
class Spec:
    """One step, resolved. Equal specs are expected to give equal artifacts; nothing else may influence the result."""

    kind: str
    inputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The artifacts that are read: name → (kind, fingerprint)."""
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
        return {"seed": self.seed, **dict(_seeds_in(self.config, ""))}

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256; ValueError if the config is not plain JSON."""
        return sha256_of_json(self.to_json())

    def with_code_version(self, version: str) -> "Spec":
        """Return the same spec with another version of the step's code."""
        return replace(self, versions=self.versions | {"code": version})


def _seeds_in(config: dict[str, Any], prefix: str) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _seeds_in(value, f"{prefix}{key}.")
        elif key in {"seed", "seeds"} and isinstance(value, int):
            yield f"{prefix}{key}", value
