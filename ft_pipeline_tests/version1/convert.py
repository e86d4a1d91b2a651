"""A comparison of this version as a document of version 1, and back, for tests of the module that reads version 1."""

from ft_pipeline.decide import comparison as decide_comparison
from ft_pipeline.decide import evidence, old_documents
from ft_pipeline.decide.claim import (
    Claim,
    KeptFacts,
    RailFacts,
    RecipeFacts,
    ScreenFacts,
    ShareFacts,
    SliceFacts,
    SliceLeadFacts,
)
from ft_pipeline_tests.version1.base_check_records import BaseCheck
from ft_pipeline_tests.version1.lead_records import (
    AnswerCheck,
    KeptLead,
    LeadTest,
    PairedDifference,
    RecipeLead,
    Screen,
)
from ft_pipeline_tests.version1.opinion_records import Opinion
from ft_pipeline_tests.version1.records import Comparison
from ft_pipeline_tests.version1.row_records import ComparisonRow, Forgetting, Rail
from ft_pipeline_tests.version1.slice_records import SliceCheck, SliceLead

RAILS = {"shown": "pass", "refuted": "breach", "open": "cannot be told"}


def as_claims(comparison: Comparison) -> decide_comparison.Comparison:
    """The same comparison as claims."""
    return old_documents.read(comparison.to_json())


def as_version_1(found: decide_comparison.Comparison) -> Comparison:
    """The same comparison as records of version 1."""
    return Comparison(
        **{name: getattr(found, name) for name in _SAME},
        rows=[_row(found, row) for row in found.rows],
        pairs=[
            PairedDifference(claim.row, claim.rival, claim.measure, claim.value, claim.low, claim.high)
            for claim in found.of_kind("lead")
            if claim.value is not None
        ],
        lead_tests=[
            LeadTest(claim.row, claim.rival, claim.p) for claim in found.of_kind("lead") if _is_tested(found, claim)
        ],
        kept_leads=[
            KeptLead(
                claim.row,
                claim.rival,
                claim.told(ShareFacts).baseline,
                claim.value or 0.0,
                claim.told(ShareFacts).wanted,
                claim.low,
            )
            for claim in found.of_kind("share")
        ],
        recipe_leads=[_recipe(claim) for claim in found.of_kind("recipe")],
        answer_checks=[_check(claim) for claim in found.of_kind("answers")],
        incumbent_checks=[_check(claim) for claim in found.of_kind("replaces")],
        screens=[
            Screen(claim.row, claim.rival, claim.count, claim.value or 0.0, claim.told(ScreenFacts).error)
            for claim in found.of_kind("screen")
        ],
        opinions=[Opinion.from_json(evidence.opinion_of(claim)) for claim in found.of_kind("opinion")],
        slice_leads=[_slice_lead(claim) for claim in found.of_kind("slice_lead")],
        slice_checks=[
            SliceCheck(
                claim.row,
                claim.rival,
                claim.scope,
                claim.count,
                claim.value,
                claim.low,
                -claim.limit,
                claim.told(SliceFacts).more,
            )
            for claim in found.of_kind("slice")
        ],
    )


_SAME = (
    *("test_rows", "test_items", "primary_metric", "metrics", "break_even", "seeds", "learning_curves"),
    *("quantization_noise", "changes", "fingerprint", "evaluation", "left_out", "champion", "rules", "contaminated"),
    *(
        "incomparable",
        "decided_by",
        "not_asked",
        "without_rivals",
        "slices",
        "field_results",
        "confusions",
        "kept_prompts",
    ),
    "own_targets",
)
_OF_ROWS = (
    *("name", "kind", "experiment", "technique", "passages", "scores", "prompt_tokens_per_call"),
    *("shared_prompt_tokens", "generated_tokens_per_call", "seconds_per_call", "cut_off", "cost_per_call"),
    *("trainable_params", "general", "fingerprint", "computed_in", "source", "source_row", "training", "base_model"),
    *("tokens", "max_new_tokens", "validation", "incumbent", "gguf", "ends", "learned_from"),
)


def _row(found: decide_comparison.Comparison, row: decide_comparison.Row) -> ComparisonRow:
    measured = [claim for claim in found.about(row, "general") if claim.value is not None]
    return ComparisonRow(
        **{name: getattr(row, name) for name in _OF_ROWS},
        rails=[
            Rail(
                claim.measure,
                claim.told(RailFacts).fault,
                claim.told(RailFacts).faults,
                claim.count,
                claim.low or 0.0,
                claim.high or 0.0,
                claim.limit,
                claim.because or RAILS[claim.verdict],
            )
            for claim in found.about(row, "rail")
        ],
        forgetting=forgetting_of(measured[0]) if measured else None,
        base_checks=[
            BaseCheck.from_json(evidence.check_of(found, claim)) for claim in found.about(row, "probes", "task")
        ],
    )


def forgetting_of(claim: Claim) -> Forgetting:
    """What a row kept of general knowledge, as version 1 had it."""
    told, verdicts = claim.told(KeptFacts), {"shown": "kept", "refuted": "forgets", "open": "cannot be told"}
    document = {
        "base": claim.rival,
        "verdict": verdicts[claim.verdict],
        "questions": claim.count,
        "lost": told.lost,
        "won": told.won,
        "drop": -(claim.value or 0.0),
        "low": -(claim.high or 0.0),
        "high": -(claim.low or 0.0),
        "margin": -claim.limit,
        "wanted": told.needed,
    }
    return Forgetting.from_json(document)


def _is_tested(found: decide_comparison.Comparison, claim: Claim) -> bool:
    row = found.row(claim.row)
    is_tested = claim.measure == found.primary and claim.value is not None and claim.because != "untested"
    return is_tested and row is not None and row.rights.is_candidate


def _recipe(claim: Claim) -> RecipeLead:
    leads = list(claim.told(RecipeFacts).leads)
    return RecipeLead(
        claim.row,
        claim.rival,
        len(leads),
        leads,
        claim.value or 0.0,
        claim.low,
        claim.high,
        claim.told(RecipeFacts).lower,
    )


def _check(claim: Claim) -> AnswerCheck:
    return AnswerCheck(claim.row, claim.rival, claim.measure, claim.value or 0.0, claim.low, -claim.limit)


def _slice_lead(claim: Claim) -> SliceLead:
    return SliceLead(
        claim.row,
        claim.rival,
        claim.scope,
        claim.count,
        claim.value or 0.0,
        claim.low,
        claim.high,
        claim.p,
        claim.verdict == "refuted",
        claim.told(SliceLeadFacts).deviation,
        claim.told(SliceLeadFacts).unseen,
    )
