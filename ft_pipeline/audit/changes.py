"""What changed between two models: data, code, settings, scores."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ft_pipeline.audit.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.audit.chain import Chain, made_from
from ft_pipeline.audit.rows import Trained, left_out, trained_rows
from ft_pipeline.audit.subject import AuditSubject, comparison_in, find_subject
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.model_kinds import TUNED

PREVIOUS = "previous"
COMPARED = ("adapter", "merged_model", "training_data", "distilled", "teacher_answers", "conversations", "base_model")
"""Kinds whose settings and code are compared."""


def previous_of(index: ArtifactIndex, subject: AuditSubject) -> AuditSubject:
    """The previous champion of a champion. UserError if the subject is not a champion, or is the first one."""
    if subject.record is None:
        raise UserError("Only a champion has a previous one. Use --against NAME to name what to compare with.")
    if subject.record.previous_sequence is None:
        first = f"{subject.record.name} (record {subject.record.sequence})"
        raise UserError(f"{first} is the first champion. Use --against NAME to name what to compare with.")
    return find_subject(index, f"champion@{subject.record.previous_sequence}")


def changes(now: Chain, before: Chain) -> dict[str, Any]:
    """Changes from `before` to `now`: rows by origin, raw files, set-aside counts, settings, code, packages, scores."""
    own, earlier = made_from(now), made_from(before)
    return {
        "now": _name(now),
        "before": _name(before),
        "data": _data(own, earlier),
        "settings": _settings(own, earlier),
        "code": _code(own, earlier),
        "scores": {"now": _scores(now), "before": _scores(before)},
    }


def _name(chain: Chain) -> str:
    record = chain.subject.record
    return f"{chain.subject.name} (record {record.sequence})" if record else chain.subject.name


def _data(now: Chain, before: Chain) -> dict[str, Any]:
    rows_now, rows_before = ({row.id: row for row in trained_rows(chain)} for chain in (now, before))
    files_now, files_before = (
        {f"{file.snapshot.removeprefix('raw_')}/{file.name}": file.sha256 for file in chain.raw_files}
        for chain in (now, before)
    )
    aside_now, aside_before = (Counter(row.code for row in left_out(chain)) for chain in (now, before))
    return {
        "rows_now": len(rows_now),
        "rows_before": len(rows_before),
        "added": _origins(rows_now, rows_before),
        "removed": _origins(rows_before, rows_now),
        "other_use": [
            f"{rows_now[key].origin}: {rows_before[key].split} → {rows_now[key].split}"
            for key in rows_now
            if key in rows_before and rows_now[key].split != rows_before[key].split
        ],
        "files_added": sorted(files_now.keys() - files_before.keys()),
        "files_removed": sorted(files_before.keys() - files_now.keys()),
        "files_changed": sorted(
            name for name in files_now.keys() & files_before.keys() if files_now[name] != files_before[name]
        ),
        "set_aside": {
            code: {"before": aside_before[code], "now": aside_now[code]}
            for code in sorted(aside_now | aside_before)
            if aside_now[code] != aside_before[code]
        },
    }


def _origins(here: Mapping[str, Trained], there: Mapping[str, Trained]) -> list[str]:
    return [f"{row.origin} ({row.split}, {row.source})" for key, row in here.items() if key not in there]


def _settings(now: Chain, before: Chain) -> dict[str, dict[str, list[Any]]]:
    """Kind → key → [before, now]."""
    changed = {}
    for kind in COMPARED:
        after, earlier = _first(now, kind), _first(before, kind)
        if after and earlier:
            flat_after, flat_earlier = dict(_flat(after.config)), dict(_flat(earlier.config))
            keys = [key for key in {**flat_earlier, **flat_after} if flat_earlier.get(key) != flat_after.get(key)]
            if keys:
                changed[kind] = {key: [flat_earlier.get(key), flat_after.get(key)] for key in sorted(keys)}
        elif after or earlier:
            changed[kind] = {kind: ["used" if earlier else "not used", "used" if after else "not used"]}
    return changed


def _code(now: Chain, before: Chain) -> dict[str, list[Any]]:
    """Name → [before, now]: versions of code and libraries by kind, git commit, source hash, all packages."""
    changed: dict[str, list[Any]] = {}
    for kind in COMPARED:
        after, earlier = _first(now, kind), _first(before, kind)
        if not (after and earlier):
            continue
        pairs = {
            **_pairs(f"{kind}.", earlier.spec.get("versions"), after.spec.get("versions")),
            **_pairs(f"{kind}.", _source(earlier), _source(after)),
        }
        changed |= pairs
        changed |= _pairs("", earlier.manifest.get("packages"), after.manifest.get("packages"))
    return changed


def _source(node: ArtifactNode) -> dict[str, Any]:
    code = node.manifest.get("code") or {}
    return {"commit": code.get("commit"), "dirty": code.get("dirty"), "source": code.get("sha256")}


def _pairs(prefix: str, before: Any, now: Any) -> dict[str, list[Any]]:
    before, now = before or {}, now or {}
    keys = sorted({*before, *now})
    return {f"{prefix}{key}": [before.get(key), now.get(key)] for key in keys if before.get(key) != now.get(key)}


def _scores(chain: Chain) -> dict[str, Any]:
    """The subject's scores: from its row in the comparison that decided on it, else from its `scores` artifact."""
    record = chain.subject.record
    name = record.name if record else chain.subject.name
    for node in chain.of_kind("comparison"):
        comparison = comparison_in(node)
        row = comparison.row(name) if comparison else None
        if comparison and row:
            return {"evaluation": comparison.fingerprint, "scores": row.to_json()["scores"]}
    for node in chain.of_kind("scores"):
        rows = [row for row in node.summary.get("rows", []) if row.get("kind") in TUNED]
        if rows:
            return {"evaluation": rows[-1].get("fingerprint"), "scores": rows[-1].get("scores", {})}
    return {"evaluation": None, "scores": {}}


def _first(chain: Chain, kind: str) -> ArtifactNode | None:
    return next(iter(chain.of_kind(kind)), None)


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat += _flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return flat
