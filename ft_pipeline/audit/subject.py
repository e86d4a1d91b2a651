"""From a name to the artifacts where a walk starts."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ft_pipeline.audit.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.records import Comparison, ComparisonRow
from ft_pipeline.release.champion import ChampionRecord

CHAMPION = re.compile(r"^champion(?:@(\d+))?$")
EVIDENCE = "evidence"
"""The role of the comparison that a champion was chosen on."""
FINGERPRINT = re.compile(r"^[0-9a-f]{8,64}$")


@dataclass(frozen=True)
class Root:
    """One artifact where a walk starts."""

    role: str
    """`model`, `score` or `evidence`, or the asset's name."""
    kind: str
    fingerprint: str
    manifest_sha256: str | None = None
    """As recorded in the pointer; None if nothing records it."""


@dataclass(frozen=True)
class AuditSubject:
    """What is audited."""

    name: str
    roots: tuple[Root, ...]
    record: ChampionRecord | None = None
    """Only for a champion: who released it, when, why and on what evidence."""


def find_subject(index: ArtifactIndex, name: str = "champion") -> AuditSubject:
    """Resolve a name: `champion`, `champion@N` (record N), an experiment, a row of `ft compare`, ASSET or
    ASSET@EXPERIMENT, or at least 8 digits of a fingerprint. UserError if nothing has this name."""
    if match := CHAMPION.match(name):
        return _champion(index, name, int(match[1]) if match[1] else None)
    for look in (_experiment, _row, _asset, _fingerprint):
        if (subject := look(index, name)) is not None:
            return subject
    experiments = sorted({pointer.partition for pointer in index.pointers if pointer.partition})
    rows = [row.name for row in _compared(index)]
    raise UserError(
        f"There is no {name!r} to audit. Use champion, champion@N, experiments ({_listed(experiments)}), rows of "
        f"`ft compare` ({_listed(rows)}), assets, or fingerprints (at least 8 digits)."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _champion(index: ArtifactIndex, name: str, number: int | None) -> AuditSubject:
    records = index.champion_records
    if not records:
        raise UserError("Nothing has been released yet. Name an experiment: `ft audit NAME`.")
    record = records[-1] if number is None else next((entry for entry in records if entry.sequence == number), None)
    if record is None:
        raise UserError(f"There is no champion record {number}. Choose one from 1 to {records[-1].sequence}.")
    kind = {"merged": "merged_model", "adapter": "adapter", "prompt": "base_model"}[record.kind]
    model = record.fingerprints.get(kind, record.fingerprint)
    evidence, scores = _evidence(index, record)
    roots = [Root("model", kind, model, _recorded(scores, kind, model))]
    if evidence is not None:
        roots.append(Root(EVIDENCE, "comparison", evidence.fingerprint, evidence.manifest_sha256))
    return AuditSubject(f"champion: {record.name}", tuple(roots), record)


def champion_artifact(index: ArtifactIndex, record: ChampionRecord) -> ArtifactNode | None:
    """The `champion` artifact of the run that wrote a record, or None."""
    held = (node for node in index.all("champion") if (node.summary.get("champion") or {}).get("sequence"))
    return next((node for node in held if node.summary["champion"]["sequence"] == record.sequence), None)


def _evidence(index: ArtifactIndex, record: ChampionRecord) -> tuple[ArtifactNode | None, ArtifactNode | None]:
    """(comparison that decided on a champion, its scores in it), found by the manifest hashes recorded then."""
    comparison = record.evidence.get("comparison")
    if not comparison:
        return None, None
    artifact = champion_artifact(index, record)
    expected = _recorded(artifact, "comparison", comparison)
    node = index.find("comparison", comparison, expected)
    reference = node.inputs.get(f"{record.experiment}/scores")
    if reference is None:
        return node, None
    return node, index.find(*reference, _recorded(node, *reference))


def _recorded(node: ArtifactNode | None, kind: str, fingerprint: str) -> str | None:
    """The manifest hash that an artifact recorded for one of its inputs."""
    if node is None:
        return None
    named = next((name for name, reference in node.inputs.items() if reference == (kind, fingerprint)), None)
    return (node.manifest.get("input_manifests") or {}).get(named)


def _experiment(index: ArtifactIndex, name: str) -> AuditSubject | None:
    roots = [_pointed(index, role, asset, name) for role, asset in (("model", "merged_model"), ("model", "adapter"))]
    model = next(filter(None, roots), None)
    if model is None:
        return None
    score = _pointed(index, "score", "scores", name)
    return AuditSubject(name, (model, score) if score else (model,))


def _row(index: ArtifactIndex, name: str) -> AuditSubject | None:
    """The scores of a row of the comparison. The model is one of their inputs."""
    row = next((compared for compared in _compared(index) if compared.name == name), None)
    comparison = _present(index, "comparison")
    if row is None or comparison is None:
        return None
    owner = f"{row.experiment}/scores"
    if row.kind == "champion":
        wanted = [key for key in comparison.inputs if key.startswith("champion/")]
    elif row.experiment and owner in comparison.inputs:
        wanted = [owner]
    else:
        wanted = [key for key in sorted(comparison.inputs) if not key.endswith("/scores")]
    holding = [comparison.inputs[key] for key in wanted if _contains(index, comparison.inputs[key], row)]
    kind, fingerprint = (holding or [comparison.inputs[key] for key in wanted])[0]
    return AuditSubject(name, (Root("score", kind, fingerprint),))


def _asset(index: ArtifactIndex, name: str) -> AuditSubject | None:
    asset, _, experiment = name.partition("@")
    root = _pointed(index, asset, asset, experiment or None)
    return AuditSubject(name, (root,)) if root else None


def _fingerprint(index: ArtifactIndex, name: str) -> AuditSubject | None:
    if not FINGERPRINT.match(name):
        return None
    nodes = index.starting_with(name)
    if len(nodes) > 1:
        labels = ", ".join(node.label for node in nodes)
        raise UserError(f"{name!r} matches several fingerprints: {labels}. Give more digits.")
    return AuditSubject(name, (Root(nodes[0].kind, nodes[0].kind, nodes[0].fingerprint),)) if nodes else None


def _pointed(index: ArtifactIndex, role: str, asset: str, experiment: str | None) -> Root | None:
    pointer = index.pointer(asset, experiment)
    return Root(role, pointer.kind, pointer.fingerprint, pointer.manifest_sha256) if pointer else None


def _present(index: ArtifactIndex, asset: str) -> ArtifactNode | None:
    pointer = index.pointer(asset)
    return index.find(pointer.kind, pointer.fingerprint, pointer.manifest_sha256) if pointer else None


def comparison_in(node: ArtifactNode) -> Comparison | None:
    """The comparison in an artifact; None if it cannot be read."""
    try:
        return Comparison.from_json(json.loads((node.path / "comparison.json").read_bytes())) if node.path else None
    except (OSError, ValueError):
        return None


def _compared(index: ArtifactIndex) -> Sequence[ComparisonRow]:
    """The rows of the current comparison."""
    node = _present(index, "comparison")
    comparison = comparison_in(node) if node else None
    return comparison.rows if comparison else ()


def _contains(index: ArtifactIndex, reference: tuple[str, str], row: ComparisonRow) -> bool:
    """Whether scores contain a row of the comparison."""
    rows = index.find(*reference).summary.get("rows", [])
    bare = row.name.split("/")[-1].split("@")[0]
    return any(bare == scored.get("name") or scored.get("kind") == row.kind == "base" for scored in rows)
