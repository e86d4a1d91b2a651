"""Where an artifact came from, for the UI: its manifest, and its inputs as links to their assets."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import dagster as dg

from ft_pipeline.audit.artifact_index import SHOWN, ArtifactIndex
from ft_pipeline.store.artifacts import Artifact


def origin(
    artifact: Artifact, index: ArtifactIndex, assets: Mapping[str, bool], experiment: str | None
) -> dict[str, Any]:
    """Return metadata of a materialization. assets: asset name → whether it has a partition per experiment.

    An input that belongs to no asset (the model of an earlier phase) has no page, so it is named without a link.
    """
    return {
        "fingerprint": artifact.fingerprint,
        "manifest": dg.MetadataValue.path(str(artifact.path / "manifest.json")),
        "manifest_sha256": artifact.manifest_sha256,
        "inputs": dg.MetadataValue.md(_table(artifact, index, assets, experiment)),
        "audit": f"ft audit {artifact.fingerprint[:SHOWN]}",
    }


def _table(artifact: Artifact, index: ArtifactIndex, assets: Mapping[str, bool], experiment: str | None) -> str:
    recorded = artifact.manifest.get("input_manifests") or {}
    lines = ["| input | asset | fingerprint | manifest |", "| --- | --- | --- | --- |"]
    for name, (kind, fingerprint) in artifact.inputs.items():
        node = index.find(kind, fingerprint, recorded.get(name))
        place = node.path.relative_to(index.root).as_posix() if node.path else "not in the store"
        partition = f"?partition={quote(experiment)}" if experiment and assets.get(kind) else ""
        shown = f"[{kind}](/assets/{quote(kind)}{partition})" if kind in assets else kind
        lines.append(f"| {name} | {shown} | `{fingerprint[:SHOWN]}` | `{place}/manifest.json` |")
    return "\n".join(lines) if artifact.inputs else "none: the user's files, or settings"
