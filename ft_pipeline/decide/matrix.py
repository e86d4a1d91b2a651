"""Make the matrix of a decision: what each row that may be released meets of each requirement, with its sentence.

It is made once, with the decision, and stored beside it; requirements.py reads it.
"""

from collections.abc import Mapping, Sequence

from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.notes import UNUSED_RAIL, describe_rail
from ft_pipeline.decide.promote import BEFORE, Court, is_sound, tests_of
from ft_pipeline.decide.requirements import IS_NEW, Cell, Outcome
from ft_pipeline.decide.sentences import say

REQUIREMENTS = {
    "is_new": IS_NEW,
    "is_sound": "answers without faults",
    "has_rivals": "can be compared",
    "leads_on_validation": "leads on the validation rows",
    "has_fresh_rows": "test rows are left",
    "beats_bar": "beats the baseline",
    "beats_rivals": "beats answers without a language model",
    "beats_champion": "beats the champion",
    "recipe_leads": "the recipe leads",
    "slices_hold": "slices hold",
    "is_not_designed_for_these_rows": "holds on rows that came later",
}
"""By rule of promote.py, what it asks."""
OF_KINDS = {
    "rows": "enough test rows",
    "clusters": "enough different questions",
    "gate": "checks of its training passed",
    "general": "keeps general knowledge",
    "probes": "behaves as its base model",
    "task": "tasks hold",
}
"""By kind of claim, what is_sound asks."""


def matrix(court: Court) -> Mapping[str, Sequence[Cell]]:
    """Return the cells of each examined row, best row first, in the order of the rules. A rule that does not apply to a
    row has none."""
    return {row.name: cells(court, row) for row in court.examined}


def cells(court: Court, row: Row) -> list[Cell]:
    """Return the cells of one row."""
    rules = (*BEFORE, *tests_of(court, row))
    return [_cell(court, rule.__name__, claim) for rule in rules for claim in rule(court, row)]


def _cell(court: Court, rule: str, claim: Claim) -> Cell:
    outcome: Outcome = "holds" if claim.holds else "fails" if claim.verdict == "refuted" else "cannot be told"
    several, comparison = OF_KINDS if rule == is_sound.__name__ else {}, court.comparison
    is_unused = claim.because in UNUSED_RAIL
    sentence = describe_rail(comparison, claim) if is_unused else say(comparison, claim)
    return Cell(requirement=several.get(claim.kind) or REQUIREMENTS[rule], outcome=outcome, sentence=sentence)
