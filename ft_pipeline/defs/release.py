"""Release: the champion, its model card, and the report of the comparison that decided it."""

import json
import re
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from ft_pipeline.decide.comparison import CHAMPION
from ft_pipeline.decide.exposure_ledger import EVIDENCE_KEY
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.decide.ruling import Ruling
from ft_pipeline.evaluation.error_analysis.worse_answers import WorseAnswer, WorseAnswers
from ft_pipeline.execution.step_asset import step
from ft_pipeline.page import Hidden, Points, Table, Words
from ft_pipeline.release.candidates import decision_key_of, find_candidates
from ft_pipeline.release.card.model_card import render_card
from ft_pipeline.release.card.model_lineage import card_facts
from ft_pipeline.release.champion import current, promote
from ft_pipeline.release.intact import require_signed_evidence
from ft_pipeline.release.model_lookup import model_of_record
from ft_pipeline.release.report.report import FILE_NAME as REPORT
from ft_pipeline.release.report.report import render_report
from ft_pipeline.release.requests import request_move
from ft_pipeline.small_plots import SHOWN_CHARACTERS
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, versions_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

WORSE_ANSWERS = "worse_answers.json"
"""The error analysis, beside the report."""
WORST_SHOWN = 5
"""Number of answers that got worse on the page of the report."""
WORSE_ANSWER_COLUMNS = {
    "question": "The turn before the answer",
    "answer_before": "What the best baseline answers",
    "answer_after": "What the tuned model answers",
    "reference": "What people wrote",
    "faults": "What is wrong with the tuned model's answer",
    "like_row": "The training row whose answer shares the most 3-word sequences with it: table/file:row",
    "shared": "Share of these sequences that the row has",
}


@step(
    stage="release",
    deps=["comparison", "decision", "recommendation"],
    kinds={"json"},
    code_version="3",
    checks=[
        CheckSpec(
            "moved",
            "A candidate beat the best baseline and the current champion, or a user moved it. If not, the reasons say "
            "why.",
            blocking=False,
        )
    ],
    build=lambda build: _build_champion(build),
    show=lambda artifact: _champion_metadata(artifact),
)
def champion(context: SpecContext) -> Spec:
    """The released model. It changes only to a candidate that is better by more than chance and passed every check.

    **Look here** to see which model is served, since when, and why.

    **If `moved` is yellow:** nothing is wrong. The champion stayed, and `reasons` says why (docs/release.md).
    """
    decision = context.artifact("decision")
    inputs = {"comparison": decision.inputs["comparison"], "decision": decision.reference}
    config = {"standing": decision.spec["config"]["standing"]}
    record = current(context.store.root)
    if record is not None and record.request is not None:
        config["approved"] = record.sequence
    return Spec("champion", inputs, config)


@step(
    stage="release",
    deps=["champion", "comparison", "decision", "recommendation"],
    kinds={"markdown"},
    code_version="6",
    build=lambda build: _build_card(build),
    show=lambda artifact: _card_metadata(artifact),
)
def model_card(context: SpecContext) -> Spec:
    """The champion's model card in the Hugging Face format, written from what was measured.

    **Look here** for what the model is for, what it was trained on, its scores and its limits. Every export
    contains it.
    """
    assets = ("champion", "comparison", "decision", "recommendation")
    teacher = context.project.settings.teacher
    config = {
        "project": context.project.settings.model_dump(mode="json", include={"name", "task"}),
        "teacher": {"terms": teacher.terms},
    }
    return Spec("model_card", {asset: context.artifact(asset).reference for asset in assets}, config)


@step(
    stage="release",
    deps=["comparison", "decision", "recommendation", "champion"],
    kinds={"html"},
    code_version="6",
    build=lambda build: _build_report(build),
    show=lambda artifact: _report_metadata(artifact),
)
def report(context: SpecContext) -> Spec:
    """The comparison as one HTML file to share: the verdict, the scores, and all answers side by side.

    **Look here** for the answers that got worse. Read them before you trust a score. `ft report --open` opens it all.
    """
    assets = ("comparison", "decision", "recommendation", "champion")
    config = {"project": context.project.settings.model_dump(mode="json", include={"name", "task"})}
    return Spec("report", {asset: context.artifact(asset).reference for asset in assets}, config, versions_of("jinja2"))


def _build_champion(build: BuildContext) -> dict[str, Any]:
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
    (build.out / "champion.json").write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
    moved = latest is not None and key == _decided_on(latest)
    message = latest.reason if moved and latest else "the champion is unchanged: " + "; ".join(reasons)
    check = {"passed": moved, "blocking": False, "message": message}
    return {"champion": record, "moved": moved, "reasons": reasons, "checks": {"moved": check}}


def _champion_metadata(artifact: Artifact) -> dict[str, Any]:
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


def _card_metadata(artifact: Artifact) -> dict[str, Any]:
    """The card without the YAML before it, which is for the hub: its beginning, and the whole."""
    text = (artifact.path / "README.md").read_text(encoding="utf-8")
    body = text.split("\n---\n", 1)[-1] if text.startswith("---\n") else text
    return {"summary": Words(_beginning(body)), "card": Hidden(body)}


def _beginning(markdown: str) -> str:
    """Return the first paragraphs of a text, as many as the page shows without a click, up to the first table.

    Headings are bold, as their large letters need too much room.
    """
    shown = ""
    for paragraph in re.sub("(?m)^#+ (.*)$", r"**\1**", markdown.strip()).split("\n\n"):
        if paragraph.startswith("|"):
            break
        if len(shown) + len(paragraph) + 2 > SHOWN_CHARACTERS:
            break
        shown += f"{paragraph}\n\n"
    return shown.strip()


def _decided_on(record: ChampionRecord) -> str | None:
    """The decision key of the comparison by which the rules, or a user, made this record."""
    return record.looked_at if record.by_hand else record.evidence.get("decided_on")


def _build_card(build: BuildContext) -> dict[str, Any]:
    """Collect facts from the champion back to the tables, and write them as the card."""
    record = build.artifact("champion").summary["champion"]
    text = "# No champion yet\n\nNothing has been released; see the recommendation.\n"
    if record:
        model = model_of_record(build.store, ChampionRecord.model_validate(record))
        settings = build.spec.config
        facts = card_facts(
            build.store,
            model,
            build.artifact("comparison"),
            task=settings["project"]["task"],
            teacher_terms=settings["teacher"]["terms"],
            decided=_decided_about(build, record["name"]),
        )
        text = render_card(facts)
    (build.out / "README.md").write_text(text, encoding="utf-8")
    return {"champion": record["name"] if record else None}


def _decided_about(build: BuildContext, name: str) -> dict[str, Any] | None:
    """Return decision.json if its verdict is about the champion, by the name of its row, or made it the champion."""
    document = build.artifact("decision").document("decision.json")
    made = document["decision"]["name"] if document["decision"]["move"] else None
    return document if name == made or document["verdict"]["row"] in (name, CHAMPION) else None


def _build_report(build: BuildContext) -> dict[str, Any]:
    text, worse = render_report(
        build.store,
        build.artifact("comparison"),
        build.artifact("decision"),
        build.artifact("recommendation"),
        build.artifact("champion"),
        build.spec.config["project"],
    )
    (build.out / REPORT).write_text(text, encoding="utf-8")
    if worse is not None:
        document = json.dumps(asdict(worse), indent=2, ensure_ascii=False)
        (build.out / WORSE_ANSWERS).write_text(document, encoding="utf-8")
    return {"bytes": len(text.encode())}


def _report_metadata(artifact: Artifact) -> dict[str, Any]:
    return {
        **_worse_answers_metadata(artifact),
        "how": "ft report --open opens it. It is a single self-contained file that you can share.",
        "report": Hidden(str(artifact.path / REPORT)),
        "megabytes": round(artifact.summary["bytes"] / 1e6, 2),
    }


def _worse_answers_metadata(artifact: Artifact) -> dict[str, Any]:
    """What tuning made worse, for the page of the report; nothing if nothing was tuned."""
    if not (artifact.path / WORSE_ANSWERS).is_file():
        return {}
    found = TypeAdapter(WorseAnswers).validate_python(artifact.document(WORSE_ANSWERS))
    return {
        "worse_answers": Table([_shown_answer(answer) for answer in found.worst[:WORST_SHOWN]], WORSE_ANSWER_COLUMNS),
        "worse_by_fault": Table([asdict(count) for count in found.faults]),
        "worse_by_slice": Table([asdict(count) for count in found.slices]),
    }


def _shown_answer(answer: WorseAnswer) -> dict[str, Any]:
    like = answer.like_answer
    return {
        "question": answer.question,
        "answer_before": answer.before,
        "answer_after": answer.after,
        "reference": answer.reference,
        "faults": "; ".join(answer.faults),
        "like_row": like.origin if like else "",
        "shared": f"{like.shared:.0%}" if like else "",
    }
