"""From a name to the artifacts where a walk starts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.documents import comparison_of
from ft_pipeline.decide.released import MODEL_OF, ChampionRecord
from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.store.checked_json import read_checked

CHAMPION = "champion"
CHAMPION_NAME = re.compile(r"^champion(?:@(\d+))?$")
FINGERPRINT_PREFIX = re.compile(r"^[0-9a-f]{8,64}$")
EVIDENCE = "evidence"
"""The role of the comparison on which the decision for a champion was based."""


class NothingReleased(UserError):
    """There is no champion yet."""


@dataclass(frozen=True)
class Root:
    """One artifact where a walk starts."""

    role: str
    """`model`, `score` or `evidence`, or the asset's name."""
    kind: str
    fingerprint: str
    manifest_sha256: str | None = None
    """As recorded in the pointer, or in the artifact that has it as an input; None if nothing records it."""


@dataclass(frozen=True)
class AuditSubject:
    """What is audited."""

    name: str
    roots: tuple[Root, ...]
    record: ChampionRecord | None = None
    """For a champion: who released it, when, why and on what evidence. None for any other subject."""


def find_subject(index: ArtifactIndex, name: str = "champion") -> AuditSubject:
    """Return the subject with this name. UserError if there is none.

    A name is `champion`, `champion@N` (record N), an experiment, a row of `ft compare`, ASSET or ASSET@EXPERIMENT, or
    at least 8 digits of a fingerprint.
    """
    if match := CHAMPION_NAME.match(name):
        return _find_champion(index, int(match[1]) if match[1] else None)
    for find in (_find_experiment, _find_compared_row, _find_asset, _find_fingerprint):
        if (subject := find(index, name)) is not None:
            return subject
    experiments = sorted({pointer.partition for pointer in index.pointers if pointer.partition})
    rows = [row.name for row in _compared_rows(index)]
    raise UserError(
        f"There is no {name!r} to audit. Use champion, champion@N, experiments ({_join(experiments)}), rows of "
        f"`ft compare` ({_join(rows)}), assets, or fingerprints (at least 8 digits)."
    )


def whole_store(name: str) -> AuditSubject:
    """Return a subject without a chain: the store is verified even if `name` is not in it, perhaps not any more."""
    return AuditSubject(f"{name}: not in the store", ())


def _join(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _find_champion(index: ArtifactIndex, number: int | None) -> AuditSubject:
    """Return the champion of a record. None: of the last one."""
    records = index.champion_records
    if not records:
        raise NothingReleased("Nothing has been released yet. Name an experiment: `ft audit NAME`.")
    record = records[-1] if number is None else next((entry for entry in records if entry.sequence == number), None)
    if record is None:
        raise UserError(f"There is no champion record {number}. Choose one from 1 to {records[-1].sequence}.")
    kind = MODEL_OF[record.kind]
    fingerprint = record.fingerprints.get(kind, record.fingerprint)
    evidence, scores = _find_evidence(index, record)
    roots = [Root("model", kind, fingerprint, _recorded_manifest(scores, kind, fingerprint))]
    if evidence is not None:
        roots.append(Root(EVIDENCE, "comparison", evidence.fingerprint, evidence.manifest_sha256))
    return AuditSubject(f"champion: {record.name}", tuple(roots), record)


def champion_artifact(index: ArtifactIndex, record: ChampionRecord) -> ArtifactNode | None:
    """Return the `champion` artifact of the run that wrote a record, or None.

    Later artifacts may contain the same record. The first one is that of the run.
    """
    for node in index.all("champion"):
        if (node.summary.get("champion") or {}).get("sequence") == record.sequence:
            return node
    return None


def _find_evidence(index: ArtifactIndex, record: ChampionRecord) -> tuple[ArtifactNode | None, ArtifactNode | None]:
    """Return (comparison that decided on a champion, its scores), found by the manifest hashes recorded then."""
    comparison = record.evidence.get("comparison")
    if not comparison:
        return None, None
    artifact = champion_artifact(index, record)
    node = index.find("comparison", comparison, _recorded_manifest(artifact, "comparison", comparison))
    scores = node.inputs.get(f"{record.experiment}/scores")
    if scores is None:
        return node, None
    return node, index.find(*scores, _recorded_manifest(node, *scores))


def _recorded_manifest(node: ArtifactNode | None, kind: str, fingerprint: str) -> str | None:
    """Return the manifest hash that an artifact recorded for one of its inputs."""
    if node is None:
        return None
    input_name = next((name for name, reference in node.inputs.items() if reference == (kind, fingerprint)), None)
    return (node.manifest.get("input_manifests") or {}).get(input_name)


def _find_experiment(index: ArtifactIndex, name: str) -> AuditSubject | None:
    """Return an experiment: its merged model (else its adapter), and its scores."""
    model = _current_root(index, "model", "merged_model", name) or _current_root(index, "model", "adapter", name)
    if model is None:
        return None
    score = _current_root(index, "score", "scores", name)
    return AuditSubject(name, (model, score) if score else (model,))


def _find_compared_row(index: ArtifactIndex, name: str) -> AuditSubject | None:
    """Return the scores of a row of the current comparison. The model is one of their inputs."""
    node = _current_node(index, "comparison")
    comparison = read_comparison(node) if node else None
    row = comparison.row(name) if comparison else None
    reference = node.inputs.get(row.source) if node and row else None
    return AuditSubject(name, (Root("score", *reference),)) if reference else None


def _find_asset(index: ArtifactIndex, name: str) -> AuditSubject | None:
    asset, _, experiment = name.partition("@")
    root = _current_root(index, asset, asset, experiment or None)
    return AuditSubject(name, (root,)) if root else None


def _find_fingerprint(index: ArtifactIndex, name: str) -> AuditSubject | None:
    if not FINGERPRINT_PREFIX.match(name):
        return None
    nodes = index.with_fingerprint_prefix(name)
    if len(nodes) > 1:
        labels = ", ".join(node.label for node in nodes)
        raise UserError(f"{name!r} matches several fingerprints: {labels}. Give more digits.")
    return AuditSubject(name, (Root(nodes[0].kind, nodes[0].kind, nodes[0].fingerprint),)) if nodes else None


def _current_root(index: ArtifactIndex, role: str, asset: str, experiment: str | None) -> Root | None:
    pointer = index.pointer(asset, experiment)
    return Root(role, pointer.kind, pointer.fingerprint, pointer.manifest_sha256) if pointer else None


def _current_node(index: ArtifactIndex, asset: str) -> ArtifactNode | None:
    pointer = index.pointer(asset)
    return index.find(pointer.kind, pointer.fingerprint, pointer.manifest_sha256) if pointer else None


def read_comparison(node: ArtifactNode) -> Comparison | None:
    """Return the comparison in an artifact; None if it cannot be read."""
    try:
        return comparison_of(read_checked(node.path / "comparison.json", dict[str, Any])) if node.path else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _compared_rows(index: ArtifactIndex) -> Sequence[Row]:
    """Return the rows of the current comparison."""
    node = _current_node(index, "comparison")
    comparison = read_comparison(node) if node else None
    return comparison.rows if comparison else ()
