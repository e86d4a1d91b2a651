"""Read a comparison.json of older versions. The only module that knows the 16 lists of those before claims."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from ft_pipeline.decide.claim import (
    Claim,
    KeptFacts,
    OpinionFacts,
    RecipeFacts,
    ScreenFacts,
    ShareFacts,
    SliceFacts,
    SliceLeadFacts,
    verdict_of,
)
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.likelihood_evidence import LIKELIHOODS, why_no_evidence
from ft_pipeline.decide.sources.guardrails import claim_of
from ft_pipeline.evaluation.comparison.guardrails import Rail
from ft_pipeline.evaluation.comparison.result_records import METRIC_IS_NAMED
from ft_pipeline.evaluation.tuned_variants import variant_of

Document = Mapping[str, Any]
KEPT = {"kept": "shown", "lost": "refuted", "forgets": "refuted", "not in base": "void", "unknown": "unknown"}
UNKNOWN = {
    "its base model was not scored": "no_base",
    "it has not answered the present": "unasked",
    "its base model, ": "base_unasked",
    "refusals are recognized in English": "language",
    "no task of this name was run": "no_task",
    "it has a single document": "single",
}
"""How the clauses of old checks begin of which nothing is known."""


FIRST_RULES = "1: percentile bootstrap; forgetting against the best base row; no rails"
"""The rules of documents that name none."""


def read(document: Document) -> Comparison:
    """Return the comparison of an old document."""
    rows = [Row.model_validate({**row, "variant": _variant(row)}) for row in document["rows"]]
    return Comparison.model_validate(
        {
            "rules": FIRST_RULES,
            "names_metric": names_metric(document),
            **document,
            "version": 2,
            "rows": rows,
            "claims": list(_claims(document, rows)),
        }
    )


def names_metric(document: Document) -> bool:
    """Return whether the project of a document names the metric that decides. Before there was a key, only the reason
    told it."""
    return document.get("names_metric", METRIC_IS_NAMED in document.get("decided_by", ""))


def _variant(row: Document) -> str | None:
    is_tuned = row.get("experiment") is not None and row["kind"] in ("adapter", "merged", "champion")
    return variant_of(row.get("source_row", "")) if is_tuned else None


def _claims(document: Document, rows: list[Row]) -> Iterator[Claim]:
    primary, entries = document["primary_metric"], document.get
    for row in document["rows"]:
        yield from (claim_of(row["name"], Rail(**rail)) for rail in row.get("rails") or ())
        if row.get("forgetting"):
            yield kept_of(row["name"], row["forgetting"])
        yield from (_kept(row["name"], check) for check in row.get("base_checks") or ())
    yield from (_opinion(entry) for entry in entries("opinions", ()))
    yield from _leads(document, rows)
    for kind, key in (("answers", "answer_checks"), ("replaces", "incumbent_checks")):
        for entry in entries(key, ()):
            yield _not_worse(kind, entry, measure=entry["metric"])
    for entry in entries("kept_leads", ()):
        facts = ShareFacts(wanted=entry["wanted"], baseline=entry["baseline"])
        known = {"row": entry["row"], "rival": entry["best"], "measure": primary, "value": entry["share"]}
        yield Claim(kind="share", **known, low=entry["low"], verdict=verdict_of(entry["low"], None), facts=facts)
    for entry in entries("recipe_leads", ()):
        ends = {"value": entry["lead"], "low": entry["low"], "high": entry["high"]}
        because = "few" if entry["lower"] is None else ""  # two trainings, of which both had to lead
        told = RecipeFacts(leads=entry["leads"], lower=entry["lower"])
        known = {"kind": "recipe", "row": entry["row"], "rival": entry["rival"], **ends}
        yield Claim(**known, verdict=verdict_of(entry["lower"], None), because=because, facts=told)
    for entry in entries("screens", ()):
        count, lead, error = (entry[key] for key in ("conversations", "lead", "error"))
        verdict = "void" if count < 30 else "shown" if 0 < lead >= error else "refuted"
        known = {"kind": "screen", "row": entry["row"], "rival": entry["rival"], "scope": "validation"}
        yield Claim(**known, value=lead, count=count, verdict=verdict, facts=ScreenFacts(error=error))
    for entry in entries("slice_leads", ()):
        known = {"kind": "slice_lead", "row": entry["row"], "rival": entry["rival"], "scope": entry["slice"]}
        ends = {"value": entry["lead"], "low": entry["low"], "high": entry["high"], "p": entry["p"]}
        spread = SliceLeadFacts(deviation=entry["deviation"], unseen=entry["unseen"])
        verdict = "refuted" if entry["is_worse"] else "open"
        yield Claim(**known, **ends, count=entry["conversations"], verdict=verdict, facts=spread)
    for entry in entries("slice_checks", ()):
        count, more = entry["conversations"], entry["more"]
        claim = _not_worse("slice", entry, scope=entry["slice"], count=count)
        if entry["low"] is not None:
            yield claim.model_copy(update={"facts": SliceFacts(more=more)})
        else:
            because = "empty" if not count else "no_evidence" if more is None else "small"
            told_more = SliceFacts() if because == "no_evidence" else SliceFacts(more=more)
            yield claim.model_copy(update={"verdict": "unknown", "because": because, "facts": told_more})


def kept_of(row: str, forgetting: Document) -> Claim:
    """Return the claim of what a row forgot."""
    return _kept(row, {**forgetting, "kind": "general", "name": "general_accuracy"})


def _kept(row: str, check: Document) -> Claim:
    """Return the claim of a check of base models, or of forgetting. Drops become changes."""
    verdict = KEPT.get(check["verdict"], "open")
    known = {"kind": check["kind"], "row": row, "measure": check["name"], "limit": -check["margin"]}
    facts = {"base": check["base"]} if check.get("base") else {}
    if verdict == "unknown":
        because = next((code for begin, code in UNKNOWN.items() if check["because"].startswith(begin)), "clause")
        if because == "base_unasked":
            facts = {"base": check["because"].split(", ")[1]}
        if because == "clause":
            facts = {"because": check["because"]}
        facts |= {"wanted": check["wanted"]} if check["kind"] == "probes" else {}
        return Claim(**known, verdict=verdict, because=because, facts=KeptFacts(**facts))
    value, low, high = (None if check.get(key) is None else -check[key] for key in ("drop", "high", "low"))
    facts = {key: check[key] for key in ("lost", "won", "before", "after", "is_rate") if key in check}
    facts |= {"wanted": check["wanted"]} if check.get("wanted") and check["kind"] != "general" else {}
    facts |= {"because": check["because"]} if check.get("because") else {}
    needed = check.get("needed") if "needed" in check else check.get("wanted")
    because = "not_in_base" if verdict == "void" else ""
    count = check.get("questions", check.get("count", 0))
    ends = {"rival": check["base"] or "", "value": value, "low": low, "high": high, "count": count}
    return Claim(**known, **ends, verdict=verdict, because=because, facts=KeptFacts(**facts, needed=needed))


def _opinion(entry: Document) -> Claim:
    told = OpinionFacts.model_validate({key: entry[key] for key in OpinionFacts.model_fields if key in entry})
    known = {"kind": "opinion", "row": entry["row"], "rival": entry["rival"], "measure": entry["by"], "p": entry["p"]}
    ends = {"value": entry["win_rate"], "low": entry["low"], "high": entry["high"], "limit": 0.5}
    known["verdict"] = verdict_of(entry["low"], entry["high"], 0.5)
    return Claim(**known, **ends, count=entry["rated"] or entry["judged"], facts=told)


def _not_worse(kind: str, entry: Document, **known: Any) -> Claim:
    names = {"kind": kind, "row": entry["row"], "rival": entry["rival"], **known}
    verdict, limit = verdict_of(entry["low"], None, -entry["margin"]), -entry["margin"]
    return Claim(**names, value=entry["lead"], low=entry["low"], limit=limit, verdict=verdict)


def _leads(document: Document, rows: list[Row]) -> Iterator[Claim]:
    primary, by_name = document["primary_metric"], {row.name: row for row in rows}
    tests = {(test["row"], test["rival"]): test["p"] for test in document.get("lead_tests", ())}
    silent = [] if names_metric(document) or primary not in LIKELIHOODS else _no_evidence(rows)
    for pair in document.get("pairs", ()):
        key = pair["better"], pair["worse"]
        if pair["metric"] == primary and frozenset(key) in silent:
            continue
        is_tested = pair["metric"] == primary and key[0] in by_name and by_name[key[0]].rights.is_candidate
        known = {"kind": "lead", "row": key[0], "rival": key[1], "measure": pair["metric"]}
        ends = {"value": pair["difference"], "low": pair["low"], "high": pair["high"]}
        claim = Claim(**known, **ends, verdict=verdict_of(pair["low"], pair["high"]))
        if is_tested:
            untested = {} if key in tests else {"because": "untested"}
            claim = claim.model_copy(update={"p": tests.get(key), **untested})
        yield claim
    for names in silent:
        row, rival = (name for name in by_name if name in names)
        known = {"kind": "lead", "row": row, "rival": rival, "measure": primary, "verdict": "unknown"}
        yield Claim(**known, because="no_evidence")


def _no_evidence(rows: list[Row]) -> list[frozenset[str]]:
    """Return the pairs of rows of which a likelihood says nothing."""
    return [frozenset((one.name, other.name)) for one, other in combinations(rows, 2) if why_no_evidence(one, other)]
