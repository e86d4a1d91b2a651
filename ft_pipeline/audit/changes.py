"""What changed between two models: data, code, settings, scores."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ft_pipeline.audit.chain import Chain, without_evidence
from ft_pipeline.audit.rows import TrainingRow, left_out_rows, training_rows
from ft_pipeline.audit.subject import AuditSubject, find_subject, read_comparison
from ft_pipeline.decide.seen import are_tests_seen
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.lineage.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.steps.experiment import flatten_settings

PREVIOUS = "previous"
"""What `ft audit --against` calls the champion before the subject."""
COMPARED_KINDS = (
    "adapter",
    "merged_model",
    "training_data",
    "distilled",
    "teacher_answers",
    "teacher_distributions",
    "conversations",
    "base_model",
)
"""Kinds whose settings and code are compared."""


def previous_champion(index: ArtifactIndex, subject: AuditSubject) -> AuditSubject:
    """Return the previous champion of a champion. UserError if the subject is not a champion, or is the first one."""
    if subject.record is None:
        raise UserError("Only a champion has a previous one. Use --against NAME to name what to compare with.")
    if subject.record.previous_sequence is None:
        first = f"{subject.record.name} (record {subject.record.sequence})"
        raise UserError(f"{first} is the first champion. Use --against NAME to name what to compare with.")
    return find_subject(index, f"champion@{subject.record.previous_sequence}")


def describe_changes(now: Chain, before: Chain) -> dict[str, Any]:
    """Return the changes from `before` to `now` as JSON.

    They are: rows by origin, raw files, numbers of set-aside rows, settings, code, packages and scores. Scores come
    from the evidence of a champion; all other changes are in what the models themselves were made from.
    """
    own_now, own_before = without_evidence(now), without_evidence(before)
    return {
        "now": _name(now),
        "before": _name(before),
        "data": _data(own_now, own_before),
        "settings": _settings(own_now, own_before),
        "code": _code(own_now, own_before),
        "scores": {"now": _scores(now), "before": _scores(before)},
    }


def _name(chain: Chain) -> str:
    record = chain.subject.record
    return f"{chain.subject.name} (record {record.sequence})" if record else chain.subject.name


def _data(now: Chain, before: Chain) -> dict[str, Any]:
    rows_now, rows_before = _rows_by_id(now), _rows_by_id(before)
    files_now, files_before = _hashes_by_file(now), _hashes_by_file(before)
    set_aside_now, set_aside_before = _count_set_aside(now), _count_set_aside(before)
    return {
        "rows_now": len(rows_now),
        "rows_before": len(rows_before),
        "added": _origins_missing_from(rows_before, rows_now),
        "removed": _origins_missing_from(rows_now, rows_before),
        "other_use": [
            f"{row.origin}: {rows_before[row_id].split} → {row.split}"
            for row_id, row in rows_now.items()
            if row_id in rows_before and row.split != rows_before[row_id].split
        ],
        "files_added": sorted(files_now.keys() - files_before.keys()),
        "files_removed": sorted(files_before.keys() - files_now.keys()),
        "files_changed": sorted(
            name for name in files_now.keys() & files_before.keys() if files_now[name] != files_before[name]
        ),
        "set_aside": {
            code: {"before": set_aside_before[code], "now": set_aside_now[code]}
            for code in sorted(set_aside_now | set_aside_before)
            if set_aside_now[code] != set_aside_before[code]
        },
    }


def _rows_by_id(chain: Chain) -> dict[str, TrainingRow]:
    return {row.id: row for row in training_rows(chain)}


def _hashes_by_file(chain: Chain) -> dict[str, str | None]:
    return {f"{file.snapshot.removeprefix('raw_')}/{file.name}": file.sha256 for file in chain.raw_files}


def _count_set_aside(chain: Chain) -> Counter[str]:
    """Return reason code → number of rows that were set aside."""
    return Counter(row.code for row in left_out_rows(chain))


def _origins_missing_from(others: Mapping[str, TrainingRow], rows: Mapping[str, TrainingRow]) -> list[str]:
    """Return the origins of the rows that are not among `others`."""
    return [f"{row.origin} ({row.split}, {row.source})" for row_id, row in rows.items() if row_id not in others]


def _settings(now: Chain, before: Chain) -> dict[str, dict[str, list[Any]]]:
    """Return kind → key → [before, now]."""
    changed: dict[str, dict[str, list[Any]]] = {}
    for kind in COMPARED_KINDS:
        node_now, node_before = _first_of_kind(now, kind), _first_of_kind(before, kind)
        if node_now and node_before:
            if pairs := _changed_pairs("", flatten_settings(node_before.config), flatten_settings(node_now.config)):
                changed[kind] = pairs
        elif node_now or node_before:
            changed[kind] = {kind: ["used" if node_before else "not used", "used" if node_now else "not used"]}
    return changed


def _code(now: Chain, before: Chain) -> dict[str, list[Any]]:
    """Return name → [before, now]: versions of code and libraries by kind, git commit, source hash, all packages."""
    changed: dict[str, list[Any]] = {}
    for kind in COMPARED_KINDS:
        node_now, node_before = _first_of_kind(now, kind), _first_of_kind(before, kind)
        if node_now and node_before:
            changed |= _changed_pairs(f"{kind}.", node_before.spec.get("versions"), node_now.spec.get("versions"))
            changed |= _changed_pairs(f"{kind}.", _source_code(node_before), _source_code(node_now))
            changed |= _changed_pairs("", node_before.manifest.get("packages"), node_now.manifest.get("packages"))
    return changed


def _source_code(node: ArtifactNode) -> dict[str, Any]:
    code = node.manifest.get("code") or {}
    return {"commit": code.get("commit"), "dirty": code.get("dirty"), "source": code.get("sha256")}


def _changed_pairs(
    prefix: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> dict[str, list[Any]]:
    """Return prefix and key → [before, now] for the keys whose values differ."""
    before, now = before or {}, now or {}
    keys = sorted({*before, *now})
    return {f"{prefix}{key}": [before.get(key), now.get(key)] for key in keys if before.get(key) != now.get(key)}


def _scores(chain: Chain) -> dict[str, Any]:
    """Return the subject's scores: from its row in a comparison of the chain, else from its `scores` artifact. Those on
    the test rows are missing if it was screened out, or may be and no comparison has it yet."""
    record = chain.subject.record
    name = record.name if record else chain.subject.name
    for node in chain.of_kind("comparison"):
        comparison = read_comparison(node)
        row = comparison.row(name) if comparison else None
        if comparison and row:
            return {
                "evaluation": comparison.fingerprint,
                "scores": {name: asdict(score) for name, score in row.scores.items()},
            }
    for node in chain.of_kind("scores"):
        rows = [row for row in node.summary.get("rows", []) if row.get("kind") in TUNED]
        if rows:
            is_seen = _is_seen(chain.index, node, rows[-1]["name"])
            return {"evaluation": rows[-1].get("fingerprint"), "scores": rows[-1].get("scores", {}) if is_seen else {}}
    return {"evaluation": None, "scores": {}}


def _is_seen(index: ArtifactIndex, scores: ArtifactNode, name: str) -> bool:
    """Return whether people see the test results of a tuned model. name: that of its row in its scores."""
    used = (scores.kind, scores.fingerprint)
    compared = [
        (comparison, source)
        for node in index.all("comparison")
        for source, reference in node.inputs.items()
        if reference == used and (comparison := read_comparison(node)) is not None
    ]
    try:
        return scores.path is not None and are_tests_seen(scores.path, compared, name)
    except (OSError, ValueError, KeyError):  # damaged; `--verify` reports it
        return False


def _first_of_kind(chain: Chain, kind: str) -> ArtifactNode | None:
    return next(iter(chain.of_kind(kind)), None)
