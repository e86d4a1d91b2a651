"""Recorded checks, read again before an artifact is used: Dagster's blocking checks apply within one run only."""

from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.store.artifacts import Artifact


def recorded_checks(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """Return the checks in an artifact's summary and in its token audit: name → {passed, message, …}."""
    audit = artifact.summary.get("audit") or {}
    return {**audit.get("checks", {}), **artifact.summary.get("checks", {})}


def failed_checks(artifact: Artifact) -> list[str]:
    """Return the blocking checks that failed, as `name: message`."""
    return [f"{name}: {message}" for name, message in _failures(artifact).items()]


def _failures(artifact: Artifact) -> dict[str, str]:
    """Return name → message of the blocking checks that failed. A check without the key `blocking` is blocking."""
    return {
        name: check.get("message") or "failed"
        for name, check in recorded_checks(artifact).items()
        if not check["passed"] and check.get("blocking", True)
    }


def require_passed(artifact: Artifact) -> Artifact:
    """Return the artifact if none of its blocking checks failed.

    Otherwise raises UserError with the first failed check and its reason.
    """
    if failures := _failures(artifact):
        others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        name, reason = next(iter(failures.items()))
        raise UserError(
            f"{artifact.kind} failed the check `{name}`: {reason.rstrip('.')}{others}. "
            "Fix the cause and materialize it again."
        )
    return artifact
