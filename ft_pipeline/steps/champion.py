"""The released model. It changes only to a candidate that is better by more than chance and passed every check.

**Look here** to see which model is served, since when, and why.

**If `moved` is yellow:** nothing is wrong. The champion stayed, and `reasons` says why (docs/release.md).
"""

from typing import Any

from ft_pipeline.decide.exposure_ledger import EVIDENCE_KEY
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.decide.ruling import Ruling
from ft_pipeline.page import Page, Points, Words
from ft_pipeline.release.candidates import decision_key_of, find_candidates
from ft_pipeline.release.champion import current, promote
from ft_pipeline.release.intact import require_signed_evidence
from ft_pipeline.release.requests import request_move
from ft_pipeline.settings.yaml_file import later
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, StepConfig, step_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


class Config(StepConfig):
    """About which champion the decision is."""

    standing: int | None
    """Its record."""
    approved: int | None = later(None)
    """The record of a model that a second person released."""


def spec(context: SpecContext) -> Spec:
    """Return the spec of the champion after the decision."""
    decision = context.artifact("decision")
    inputs = {"comparison": decision.inputs["comparison"], "decision": decision.reference}
    record = current(context.store.root)
    approved = record.sequence if record is not None and record.request is not None else None
    config = Config(standing=decision.spec["config"]["standing"], approved=approved)
    return Spec("champion", inputs, config.model_dump(mode="json"))


def build(build: BuildContext) -> dict[str, Any]:
    """Carry out the decision, and write the champion's record, moved or not. A decision is about one champion: if
    another one has taken its place, that one stays."""
    require_signed_evidence(build.store, build.spec.inputs.values())
    comparison_artifact = build.artifact("comparison")
    key = decision_key_of(comparison_artifact)
    made = build.artifact("decision")
    document, decided_against = made.document("decision.json"), made.spec["config"]["standing"]
    decision = Ruling.model_validate(document["decision"])
    reasons: list[str] = []

    def choose(standing: ChampionRecord | None) -> Any:
        if standing is not None and not standing.by_hand and _decided_on(standing) == key:
            return None  # an earlier run carried out this decision, and died before it reported it
        if standing is not None and standing.sequence != decided_against:
            moved = f"{standing.name} became the champion (record {standing.sequence}) after this decision"
            reasons[:] = [f"{moved}, which is not carried out. Decide again: `ft run`, or materialize `decision`"]
            return None
        reasons[:] = decision.reasons
        candidates, serving = find_candidates(comparison_artifact, build.store)
        move = decision.promotion(candidates, comparison_artifact.fingerprint)
        if move is None:
            return None
        entry, served = document["exposure"]["entry"], serving[move.candidate.name]
        evidence = {**move.evidence, "decided_on": key, "served": served, EVIDENCE_KEY: entry}
        return move.model_copy(update={"evidence": evidence})

    waiting = None
    if build.project.settings.promotion.two_people:
        latest, waiting = request_move(build.store.root, choose)
    else:
        latest = promote(build.store.root, choose)
    if waiting is not None:
        reasons[:] = [waiting.describe()]
    record = latest.model_dump() if latest else None
    build.write_json("champion.json", record)
    moved = latest is not None and key == _decided_on(latest)
    message = latest.reason if moved and latest else "the champion is unchanged: " + "; ".join(reasons)
    check = {"passed": moved, "blocking": False, "message": message}
    return {"champion": record, "moved": moved, "reasons": reasons, "checks": {"moved": check}}


def _decided_on(record: ChampionRecord) -> str | None:
    """The decision key of the comparison by which the rules, or a user, made this record."""
    return record.looked_at if record.by_hand else record.evidence.get("decided_on")


def page(artifact: Artifact) -> Page:
    """Which model is released, and why."""
    summary = artifact.summary
    record = summary["champion"]
    now = "no model is released yet"
    if record:
        now = f"**{record['name']}** is the champion since {record['since'][:10]}: {record['reason']}"
    return {
        "released": Words(now),
        "moved": summary["moved"],
        "reasons": Points(summary["reasons"]),
        "champion": record,
    }


CHECKS = (
    CheckSpec(
        "moved",
        "A candidate beat the best baseline and the current champion, or a user moved it. If not, the reasons say why.",
        blocking=False,
    ),
)

STEP = step_of(
    __name__,
    stage="release",
    deps=("comparison", "decision", "recommendation"),
    kinds=frozenset({"json"}),
    code_version="3",
)
