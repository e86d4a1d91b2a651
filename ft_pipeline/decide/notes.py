"""What a reader of the scores must know besides them, for every page."""

import math

from ft_pipeline.decide.claim import Claim, RailFacts
from ft_pipeline.decide.comparison import CHAMPION, Comparison
from ft_pipeline.decide.exposure import USED_UP, Exposure, needed_lead, whole
from ft_pipeline.decide.likelihood_evidence import DECIDE_BY, LIKELIHOODS, learned_rows
from ft_pipeline.decide.screened_out import screened_out
from ft_pipeline.decide.sentences import describe_twice, say, tell_opinion
from ft_pipeline.decide.without_model import without_model
from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResults
from ft_pipeline.evaluation.comparison.score import describe_score
from ft_pipeline.evaluation.metrics.definitions import PER_TOKEN, Metric

ENOUGH_TEST_ROWS = 100
"""With fewer test conversations a comparison is small: intervals are wide, and only large leads show."""
OFTEN = 20
"""Looks from which on the number of fresh test conversations that would help is told."""
UNUSED_RAIL = {
    "off": "the references have this fault, too",
    "not checked": "its patterns are for another language",
}
"""Reason of a rail that says nothing about a model → in words."""
RAIL_VERDICTS = {"shown": "pass", "refuted": "breach", "open": "cannot be told"}
"""What the verdict of a rail is called."""


def shown_metrics(comparison: Comparison) -> dict[str, Metric]:
    """Return the metrics worth a column: first the primary one, then the others in their order.

    Exact match is left out if no answer equals its reference, as for free text, unless it is the primary metric. With
    several tokenizers, losses per token are left out.
    """
    primary = comparison.primary
    per_token = PER_TOKEN if has_several_tokenizers(comparison) and primary not in PER_TOKEN else ()
    shown = {name: metric for name, metric in comparison.metrics.items() if name not in per_token}
    matches = any(row.scores["exact_match"].value for row in comparison.rows if "exact_match" in row.scores)
    if not matches and primary != "exact_match":
        shown.pop("exact_match", None)
    return dict(sorted(shown.items(), key=lambda entry: entry[0] != primary))


def has_several_tokenizers(comparison: Comparison) -> bool:
    """Return whether the rows differ in vocabulary or template."""
    return len({row.tokens for row in comparison.rows if row.tokens}) > 1


def base_models(comparison: Comparison) -> list[str]:
    """Return the base models of the rows, in their order."""
    return list(dict.fromkeys(row.base_model for row in comparison.rows if row.base_model))


def small_note(comparison: Comparison) -> str:
    """Return what few test conversations mean, as a sentence; empty if there are enough."""
    if comparison.test_rows >= ENOUGH_TEST_ROWS:
        return ""
    return f"{comparison.test_rows} test conversations, fewer than {ENOUGH_TEST_ROWS}. Only large leads show."


def exposure_note(exposure: Exposure, conversations: int, false_moves: float) -> str:
    """Return how often the test rows were looked at, and how many new ones would help; empty if they are fresh."""
    if not exposure.is_used_up and exposure.count < OFTEN:
        return ""
    now, halved = (
        needed_lead(Exposure(count=count).level(false_moves, "", is_tuned=True))
        for count in (exposure.count, exposure.count / 2)
    )
    reopen = max(0, whole(exposure.designs * conversations / (USED_UP - 1)) - conversations)
    again = f" {reopen} fresh ones allow one more test." if exposure.is_used_up else ""
    wanted = [reopen, conversations] if reopen else [conversations]
    of_data = [f"{math.ceil(new / exposure.test_share):,}" for new in wanted] if exposure.test_share else []
    share = f" At a test share of {exposure.test_share:.0%}, that is about {' or '.join(of_data)} new rows."
    return (
        f"{whole(exposure.count)} models of {whole(exposure.designs)} settings were looked at on these "
        f"{conversations} test conversations since the champion last moved.{again} {conversations} fresh ones "
        f"halve the count, and the needed lead falls from {now:.1f} to {halved:.1f} standard errors."
        f"{share if of_data else ''}"
    )


def unusable(comparison: Comparison) -> list[str]:
    """Return a sentence per row whose answers have a fault too often."""
    breaches = [(row.name, comparison.breaches(row)) for row in comparison.rows]
    return [f"{name}: {'; '.join(say(comparison, claim) for claim in claims)}" for name, claims in breaches if claims]


def describe_rail(comparison: Comparison, rail: Claim) -> str:
    """Return the share and the verdict of a rail. Without a verdict there is no share: it would read as a result."""
    if rail.because in UNUSED_RAIL:
        return f"limit on answers that {rail.told(RailFacts).fault}: {rail.because}, {UNUSED_RAIL[rail.because]}"
    return f"{say(comparison, rail)}: {RAIL_VERDICTS[rail.verdict]}"


def describe_share(rail: Claim) -> str:
    """Return how often a fault is found, for the end of a sentence."""
    return f"{rail.value:.0%} {rail.told(RailFacts).fault}"


def not_compared(comparison: Comparison) -> list[str]:
    """Return a sentence per model or question that is missing from the comparison: what is missing, and why."""
    return [*(entry.describe() for entry in comparison.contaminated), *comparison.not_asked]


def footnotes(comparison: Comparison) -> list[str]:
    """Return what a reader of the scores must know."""
    notes, out = [], screened_out(comparison)
    if has_several_tokenizers(comparison):
        notes.append("Loss per token is not comparable between tokenizers, and not shown.")
    withheld = {
        (entry.a, entry.because)
        for entry in comparison.incomparable
        if entry.metric == "nats_per_byte" and (row := comparison.row(entry.a)) and not row.rights.without_model
        if entry.metric not in row.scores and row.name not in out
    }
    notes += [f"{name} has no nats per byte: {because}." for name, because in sorted(withheld)]
    for name, claim in out.items():
        row = comparison.row(name)
        score = f" There it has {describe_score(row.validation)} nats per byte." if row and row.validation else ""
        notes.append(f"{name} {say(comparison, claim)}: its scores on the test rows are not shown.{score}")
    notes += without_model(comparison)
    notes += filter(None, [describe_twice(comparison)])
    notes += _learned_otherwise(comparison)
    notes += [tell_opinion(opinion) for opinion in shown_opinions(comparison)]
    notes += _worst_of_best(comparison)
    files = [(row, row.gguf) for row in comparison.rows if row.gguf is not None]
    return notes + [f"{row.name}: {costs.describe(f'{row.experiment}/merged')}." for row, costs in files]


def _learned_otherwise(comparison: Comparison) -> list[str]:
    """Return what the likelihoods of models that do not imitate mean."""
    learned = [f"{clause}, not to imitate." for clause in learned_rows(comparison.rows)]
    if not learned:
        return []
    is_likelihood = comparison.primary in LIKELIHOODS
    if is_likelihood and comparison.names_metric:
        label = comparison.metric().label
        means = f"Their answers may be better where {label} is worse. The project names this metric."
    elif is_likelihood:
        means = f"The likelihood of the references is no evidence for or against them: {DECIDE_BY}."
    else:
        means = "The likelihood of the references is no evidence for or against them."
    return [" ".join([*learned, means])]


def shown_opinions(comparison: Comparison) -> list[Claim]:
    """Return the opinions that readers see, each pair of rows once: of a row against its baseline, the champion, or
    what answers today."""
    told: dict[tuple[str, ...], Claim] = {}
    for claim in comparison.claims:
        row, rival = (comparison.row(name) for name in (claim.row, claim.rival))
        if claim.kind != "opinion" or row is None or rival is None or row.kind == CHAMPION:
            continue
        if rival.incumbent or rival.kind == CHAMPION or comparison.bar(row) is rival:
            told.setdefault((*sorted((row.name, rival.name)), claim.measure), claim)
    return list(told.values())


def _worst_of_best(comparison: Comparison) -> list[str]:
    """Return what the checks found wrong most often in the answers of the best row."""
    best = comparison.rows[0].name if comparison.rows else None
    results: list[FieldResults | Confusion] = [*comparison.field_results, *comparison.confusions]
    return [sentence for result in results if result.row == best for sentence in result.describe_worst()]
