"""Decide whether the champion moves, by rules on the measured comparison. Ties and uncertainty never move it.

A candidate's path (promotion_rules.py): its recorded checks passed, its answers have no fault too often, and it is
shown not to forget; there are enough test conversations; it leads on the validation rows; it beats the best use of its
base model and the champion on the test rows, at a level that counts all earlier tests (exposure.py); over its seeds,
too.

The best candidate that passes becomes the champion, or a simpler one that is shown to keep most of its lead.

A champion that learned from rows which are test rows now is not compared (comparison/contaminated_models.py). Once its
experiment is trained again, that model stands in its place; until then, the champion stays. If the experiment is gone,
a candidate must beat the baselines alone. The reason in the record says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.released import Candidate, ChampionRecord, Promotion
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow, complexity_of
from ft_pipeline.release.promotion_rules import PromotionRules
from ft_pipeline.settings.promotion import PromotionSettings

NOT_EXPOSED = Exposure()
REJECTED = "was rejected manually"
"""How the only requirement begins that a candidate fails because of a person."""


@dataclass(frozen=True)
class TestedCandidate:
    """A candidate whose lead was tested on the test rows."""

    name: str
    fingerprint: str
    key: str
    """The identity of the test (exposure.key_of_test)."""
    rivals: list[str]
    p: float | None
    level: float
    """The largest p-value that counts."""
    is_new: bool
    """Whether the test was not made before."""


@dataclass(frozen=True)
class Decision:
    """Whether the champion moves, and why."""

    move: bool
    name: str | None
    """The row to release; None if `decide` releases none."""
    reasons: list[str]
    """From `decide`: a line per examined candidate, with what it beats or the requirements that it fails. From
    `decide_one`: what the row beats, or a line per failed requirement."""
    evidence: dict[str, Any]
    """The numbers behind the decision: metric, score, paired differences; empty if `decide` releases none."""
    tests: Sequence[TestedCandidate] = field(default_factory=list)
    failed: Mapping[str, list[str]] = field(default_factory=dict)
    """The requirements that each examined row fails, by name."""

    def to_json(self) -> dict[str, Any]:
        """Return the decision as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Decision":
        """Return the decision of to_json."""
        return cls(**{**document, "tests": [TestedCandidate(**test) for test in document["tests"]]})


def decide(
    comparison: Comparison,
    candidates: Mapping[str, Candidate],
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    rejected: Mapping[str, int] | None = None,
    exposure: Exposure = NOT_EXPOSED,
) -> Decision:
    """Examine the rows that may be released, best first, and choose the best one that meets all requirements.

    candidates: by row name; a row without a candidate cannot be released. rejected: see champion.manually_rejected. A
    model that a person rejected is not promoted. exposure: the earlier tests on these rows. Nothing else is read, and
    nothing is written.
    """
    rules = PromotionRules(comparison, candidates, settings, champion, exposure)
    tests = tests_of(rules)
    failed = {row.name: _failed(rules, row, rejected or {}) for row in rules.examined_rows()}
    passing = rules.surest([row for row in rules.examined_rows() if not failed[row.name]])
    if not passing:
        reasons = [_listed(name, lines) for name, lines in failed.items()]
        ends = [exposure.describe_end(comparison.test_rows, settings.false_moves)] if exposure.is_used_up else []
        reasons = [*reasons, *ends] or ["the comparison has no row that can be released"]
        return Decision(False, None, [*reasons, *rules.champion_notes(with_fix=True)], {}, tests, failed)
    best, chosen = passing[0], _simplest(comparison, passing)
    win = rules.describe_win(chosen)
    better = takewhile(lambda entry: entry[1], failed.items())  # the rows before the best one that passes
    reasons = [_listed(name, lines) for name, lines in better]
    if chosen is not best:
        win += f"; it is simpler than {best.name}, and is shown to keep most of its lead"
    return Decision(True, chosen.name, [*reasons, win], rules.evidence(chosen), tests, failed)


def tests_of(rules: PromotionRules) -> list[TestedCandidate]:
    """Return the tests that a decision makes."""
    return [
        TestedCandidate(
            row.name,
            rules.candidates[row.name].fingerprint,
            rules.keys[row.name],
            [rival.name for rival in rules.rivals(row)],
            rules.p_value(row),
            rules.level(row),
            rules.keys[row.name] not in rules.exposure.levels,
        )
        for row in rules.tested_rows
    ]


def _listed(name: str, lines: Sequence[str]) -> str:
    return f"{name}: {'; '.join(lines)}"


def _failed(rules: PromotionRules, row: ComparisonRow, rejected: Mapping[str, int]) -> list[str]:
    """Return why a row is not released; empty if it may be."""
    failed = rules.failed_requirements(row)
    record_number = rejected.get(rules.candidates[row.name].fingerprint)
    if not failed and record_number is not None:
        return [f"{REJECTED} (record {record_number}): run `ft promote {row.name}` to release it"]
    return failed


def _simplest(comparison: Comparison, passing: Sequence[ComparisonRow]) -> ComparisonRow:
    """Return the simplest of the rows that pass and keep most of the lead of the best one, which comes first."""
    best = passing[0]
    kept = {entry.row for entry in comparison.kept_leads if entry.best == best.name and entry.is_shown}
    as_good = [best, *(row for row in passing[1:] if row.name in kept)]
    return min(as_good, key=lambda row: (*complexity_of(row), passing.index(row)))


def promotion_of(
    decision: Decision, candidates: Mapping[str, Candidate], comparison_fingerprint: str | None = None
) -> Promotion | None:
    """Return the promotion that champion.promote expects; None if the decision releases nothing."""
    if not decision.move or decision.name is None:
        return None
    evidence = {"comparison": comparison_fingerprint, **decision.evidence}
    return Promotion(candidates[decision.name], decision.reasons[-1], evidence)


def decide_one(
    comparison: Comparison,
    candidates: Mapping[str, Candidate],
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    row: ComparisonRow,
    exposure: Exposure = NOT_EXPOSED,
) -> Decision:
    """Apply the same rules to one row, regardless of better candidates and of manual rejections."""
    rules = PromotionRules(comparison, candidates, settings, champion, exposure, row)
    failed = rules.failed_requirements(row)
    # All candidates that would be tested count: whoever asks for them one by one has seen them all in the comparison.
    return Decision(not failed, row.name, failed or [rules.describe_win(row)], rules.evidence(row), tests_of(rules))


def check_results(training_data_summary: Mapping[str, Any], merged_model_summary: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether each check of a tuned model passed, from the summaries in its manifests. A missing check counts as
    failed."""
    audit = training_data_summary.get("audit", {}).get("checks", {})
    return {
        "token_audit": bool(audit) and all(check.get("passed") is True for check in audit.values()),
        "merge": merged_model_summary.get("passed") is True,
    }
