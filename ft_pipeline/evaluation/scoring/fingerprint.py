"""The evaluation fingerprint, which two scores must share to be compared.

What the scores depend on has three parts: the test rows, how answers are measured, and how text becomes tokens. Scores
with other rows or measures are never compared. With other tokens, all metrics are compared but those per token.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.metrics.definitions import CALLS_VERSION, metric_versions
from ft_pipeline.tables.formats.turns import plain

Parts = dict[str, Any]
"""Everything that scores depend on, except the model and its prompt, by name of the part. Most parts are hashes."""

_TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


TOKENS = ("template", "vocabulary")
"""The parts that say how text becomes tokens."""


def evaluation_parts(
    test_rows: Sequence[dict[str, Any]], base_model: Path, config: Mapping[str, Any], project_base: Path | None = None
) -> Parts:
    """Return everything that the scores depend on, except what is compared (the model, its adapter, its prompt).

    config: the job's config. project_base: the model in whose tokens the length of answers is limited; None: the same.
    The batch size is not a part: it changes scores only by rounding. Features that a project does not use have no part.
    """
    settings = config["evaluation"]
    parts = {
        "test_rows": digest(list(map(_digested, test_rows))),
        "template": _files_digest(base_model, _TEMPLATE_FILES),
        "vocabulary": _files_digest(base_model, _VOCABULARY_FILES),
        "generation": {"temperature": 0, **_limit(settings["max_new_tokens"], project_base or base_model)},
        "general": digest([list(config["general_questions"]), list(config["general_texts"])]),
        "versions": metric_versions(),
    }
    metric_settings = {"answer_format": settings.get("answer_format"), "custom": config.get("custom_metrics")}
    if any(metric_settings.values()):
        parts["measures"] = digest(metric_settings)
    if any(row.get("tools") or any(turn.get("tool_calls") for turn in row["messages"]) for row in test_rows):
        rules = config.get("call_arguments")
        parts["calls"] = {"version": CALLS_VERSION, "arguments": rules} if rules else CALLS_VERSION
    if settings.get("tasks"):
        task_settings = {key: settings.get(key) for key in ("tasks", "task_documents", "seed")}
        parts["tasks"] = digest({**task_settings, "files": config.get("task_files")})
    return parts


def _limit(max_new_tokens: int | None, base_model: Path) -> dict[str, Any]:
    """Return what the limit of an answer depends on besides the reference answers. base_model: counts its tokens."""
    if max_new_tokens is None:
        return {"max_new_tokens": None}
    return {"max_new_tokens": max_new_tokens, "of": _files_digest(base_model, _VOCABULARY_FILES)}


def _digested(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the digest of a test row depends on. Later keys of turns, and `tools`, are left out where they are
    null: so scores stay comparable with those that older versions recorded."""
    turns = [{"reasoning_content": None, **turn} for turn in plain(row["messages"])]
    return {"id": row["id"], "messages": turns, **({"tools": row["tools"]} if row.get("tools") else {})}


def fingerprint(parts: Parts) -> str:
    """Return the hash of all parts but TOKENS. Scores with different fingerprints are never compared."""
    return digest({name: part for name, part in parts.items() if name not in TOKENS})


def tokens_fingerprint(parts: Parts) -> str:
    """Return the hash of TOKENS. Values per token are compared only if it is the same."""
    return digest({name: parts.get(name) for name in TOKENS})


def differences(parts: Parts, other: Parts) -> list[str]:
    """Return the names of the parts in which two evaluations differ, sorted."""
    return sorted(name for name in parts.keys() | other.keys() if parts.get(name) != other.get(name))


def digest(value: Any) -> str:
    """Return the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _files_digest(folder: Path, names: Sequence[str]) -> str:
    """Return a hash of those of the named files that exist, by name and content."""
    hashes = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names if (folder / name).is_file()
    }
    return digest(hashes)
