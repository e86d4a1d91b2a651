"""Every sentence about a claim: a template per kind and outcome. A claim names its template by `kind.because`, or else
by `kind.verdict`; the names in braces are those of `Numbers`.

The templates go on with the name of the row ("qlora" + "does not beat few_shot on loss"), or with ": " after it, if
they begin with a capital letter or a number.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ft_pipeline.decide.claim import (
    Claim,
    ExplainedFacts,
    KeptFacts,
    OpinionFacts,
    RecipeFacts,
    ScreenFacts,
    SliceFacts,
    more_would_decide,
)
from ft_pipeline.decide.comparison import MIN_CLUSTERS, WANTED_RATINGS, Comparison, Row
from ft_pipeline.decide.likelihood_evidence import why_no_evidence
from ft_pipeline.evaluation.comparison.score import describe_interval
from ft_pipeline.evaluation.opinions.agreement import Agreement

ENOUGH = 20
TRAIN_LESS = "train with a lower learning rate or fewer epochs"
NAMED = 3
"""Largest number of slices that one sentence names."""
_LEADS = "leads {rival} on {label} by {lead}"
_PREFERRED = "is preferred in {wins} by {who}"
_LUCK = "but with {tries} that may be luck: its p-value is {p_}, and at most {level:.2g} is wanted"
_COUNTED = "{lost} of {count} questions were lost and {won} won"
_SLICE = "its lead over {rival} is {value_} (at least {low_}; {limit_} is the limit)"
_UNTOLD = "whether it holds in {scope} ({conversations})"
_PROBES = "the base model {wanted} {before_of_all} of {count} questions, and this model {after_of_all}"
_TASK = "{lost} of {count} documents got worse and {won} better"
_RAIL = "{share} of its answers {fault} ({low:.0%} to {high:.0%}; at most {limit:.0%} is wanted)"
_SUBJECTS = {"probes": ("the probes {measure}", _PROBES), "task": ("the task {measure}", _TASK)}

SENTENCES: dict[str, str] = {
    # the rows, and what was recorded
    "champion.already": "is already the champion",
    "champion.left_out": "the champion's experiment {experiment} must be trained and scored again first",
    "champion.unscored": "the champion {name} has no score in this comparison: run `ft run`",
    "champion.rejected": "was rejected manually (record {number}): run `ft promote {row}` to release it",
    "rows.shown": "{count} test conversations, and {limit:.0f} are needed",
    "rows.few": "{count} test conversations are too few, {limit:.0f} are needed",
    "clusters.shown": "{count} clusters of like questions, and {limit:.0f} are needed",
    "clusters.few": "the test conversations are {count} clusters of like questions, and {limit:.0f} are needed: "
    "answers to like questions are no independent evidence",
    "rows.used_up": "waits for fresh test rows",
    "rivals.none": "has no baseline to be compared with",
    "gate.shown": "the check {measure} passed",
    "gate.refuted": "the check {measure} failed",
    # leads
    "lead.shown": _LEADS,
    "lead.open": _LEADS + ", but the interval includes zero",
    "lead.noise": _LEADS + ", but the two values of {twice_by}: that may be rounding",
    "lead.behind": "does not beat {rival} on {label}",
    "lead.unmeasured": "was not compared with {rival} on {label}",
    "lead.tokens": "was not compared with {rival} on {label}",
    "lead.no_evidence": "is not decided against {rival}: {why}. To decide, {ask}, or set `decides: true` for a check",
    "lead.untested": _LEADS + ", but this was compared by older rules: run `ft run`",
    "lead.without_model": "trails {rival}, which is without a language model, on {label} by {trail}",
    "lead.same": _LEADS + ", but by the same in every conversation, which proves nothing",
    "lead.luck": _LEADS + ", " + _LUCK,
    "answers.behind": "leads {rival} on {primary} by {primary_lead}, but its answers are not shown to be as good: "
    "{label} {lead_1} (at least {low_1}; {limit_1} is the limit)",
    "answers.numbers": "{lead_1} (at least {low_1}; {limit_1} is the limit)",
    "recipe.shown": "its recipe leads {rival} by {of_recipe}",
    "recipe.few": "whether its recipe leads {rival} cannot be told from {of_recipe}: three are needed",
    "recipe.open": "its recipe is not shown to beat {rival}: it leads by {of_recipe}",
    "screen.shown": "leads {rival} on the {count} validation conversations by {errors} standard errors",
    "screen.void": "too few validation conversations to screen: {count}",
    "screen.refuted": "{leads_} {rival} on the {count} validation conversations by {errors} standard errors, and a "
    "lead of 1 is wanted before the test rows are used",
    "fresh.shown": "is not behind {rival} on the test conversations that arrived after it was designed",
    "fresh.refuted": "trails {rival} on the test conversations that arrived after it was designed: by {behind} (95 %: "
    "{behind_ends})",
    # opinions
    "opinion.shown": _PREFERRED,
    "opinion.open": _PREFERRED + ", and half may be the truth",
    "opinion.refuted": _PREFERRED,
    "opinion.luck": _PREFERRED + ", " + _LUCK,
    "opinion.unheard": _PREFERRED + ". That is not confirmed ({clause}): {ask}",
    # slices that must hold
    "slice.shown": "holds in {scope} ({conversations}): " + _SLICE,
    "slice.open": _UNTOLD + " cannot be told: " + _SLICE + "; {more_}",
    "slice.empty": "whether it holds in {scope} cannot be told: no test conversation is in this slice. Correct its "
    "rule, or add such rows",
    "slice.small": _UNTOLD + f" cannot be told: {ENOUGH} are needed, about {{more}} more",
    "slice.alike": _UNTOLD + f" cannot be told: they are fewer than {MIN_CLUSTERS} clusters of like questions",
    "slice.no_evidence": _UNTOLD + " against {rival} cannot be told: the likelihood says nothing about the two. Set "
    "`decides: true` for a check",
    # what it must keep
    "general.shown": "Keeps general knowledge: " + _COUNTED + "; the true drop is at most {most} points, the margin is "
    "{margin}",
    "general.gain": "Keeps general knowledge: " + _COUNTED + "; the true gain is at least {gain} points",
    "general.refuted": "Forgets: " + _COUNTED + "; the true drop is at least {least} points, the margin is {margin}",
    "general.open": "Forgetting cannot be told: " + _COUNTED + "; the true drop may be anywhere from {least} to {most} "
    "points (90 %), the margin is {margin}{observed}",
    "general.unmeasured": "its general accuracy was not compared with that of its base model",
    **{
        f"{kind}.{outcome}": template.replace("{subject}", subject).replace("{counts}", counts)
        for kind, (subject, counts) in _SUBJECTS.items()
        for outcome, template in {
            "shown": "Passes {subject}: {counts}; the true drop is at most {most}{unit}, the margin is {margin}",
            "gain": "Passes {subject}: {counts}; the true gain is at least {gain}{unit}, the margin is {margin}",
            "refuted": "Fails {subject}: {counts}; the true drop is at least {least}{unit}, the margin is {margin}",
            "open": "Cannot be told from {subject}: {counts}; the true drop may be anywhere from {least} to "
            "{most}{unit} (90 %), the margin is {margin}{observed}",
            "not_in_base": "The base model does not refuse either: in {subject}, {counts}",
            "no_base": "Nothing is known of {subject}: its base model was not scored",
            "unasked": "Nothing is known of {subject}: it has not answered the present questions. Materialize its "
            "scores, or run `ft run`",
            "base_unasked": "Nothing is known of {subject}: its base model, {base}, {not_done}. Materialize its "
            "scores, or run `ft run`",
            "language": "Nothing is known of {subject}: refusals are recognized in English, and the questions are in "
            "another language. Set `refusal`, a pattern of the words that decline",
            "no_task": "Nothing is known of {subject}: no task of this name was run. A group of tasks cannot be held: "
            "name its tasks",
            "single": "Nothing is known of {subject}: it has a single document, which shows nothing",
            "clause": "Nothing is known of {subject}: {clause}",
        }.items()
    },
    # rails
    **{f"rail.{outcome}": _RAIL for outcome in ("shown", "refuted", "off", "not checked", "open")},
}
HIDDEN = "its lead over {rival} is not shown: that one does not lead on the validation rows"
TELL_OF_BOTH = ("lead", "opinion", "answers", "slice", "recipe", "fresh")
"""Kinds of claims that tell how good the answers of the rival are, too. HIDDEN is told if nobody may see that."""
VERBS = ("leads", "trails", "has", "does", "was", "is", "waits")
"""First words of the templates that go on with a row's name."""


def say(comparison: Comparison, claim: Claim) -> str:
    """Return a claim as a sentence without the name of its row and without a full stop."""
    is_gain = claim.verdict == "shown" and claim.high is not None and (claim.low or 0) > 0
    outcome = claim.because or ("gain" if is_gain and claim.kind in ("general", "probes", "task") else claim.verdict)
    template = HIDDEN if _is_hidden(comparison, claim) else SENTENCES[f"{claim.kind}.{outcome}"]
    sentence = template.format_map(Numbers(comparison, claim))
    return f"champion: {sentence}" if claim.facts.is_champion else sentence


def _is_hidden(comparison: Comparison, claim: Claim) -> bool:
    """Return whether a claim would tell a test result of its rival, which was screened out: the champion may be."""
    rival = comparison.row(claim.rival) if claim.kind in TELL_OF_BOTH and claim.value is not None else None
    return rival is not None and comparison.why_screened_out(rival) is not None


def say_all(comparison: Comparison, claims: Iterable[Claim]) -> list[str]:
    """Return the sentences of claims, each once: two rivals may be told in the same words."""
    return list(dict.fromkeys(say(comparison, claim) for claim in claims))


def say_of(comparison: Comparison, claim: Claim) -> str:
    """Return a claim as a sentence about its row."""
    sentence = say(comparison, claim).removeprefix("champion: ")
    return f"{claim.row} {sentence}" if sentence.split()[0] in VERBS else f"{claim.row}: {sentence}"


def ask_for_ratings(comparison: Comparison, row: Row, rival: Row, *, known: bool = True) -> str:
    """Return the command with which people rate enough pairs for their opinion to decide."""
    people = next(iter(comparison.about(row, "opinion", rival=rival.name, measure="people")), None)
    if people is None or not known:
        return f"rate {WANTED_RATINGS} pairs with `ft rate {row.name} {rival.name}`"
    told = people.told(OpinionFacts)
    missing = max(0, WANTED_RATINGS - told.rated, told.changed or 0)
    return f"rate {missing} more pairs with `ft rate {row.name} {rival.name}`"


def describe_slices(comparison: Comparison, worse: Sequence[Claim]) -> str:
    """Return where a row is worse, the surest first, as part of a sentence; empty if it is worse nowhere."""
    worse, digits = sorted(worse, key=lambda claim: (claim.p or 0.0, claim.scope)), digits_of(comparison.primary)
    named = [
        f"in {claim.scope} ({_conversations(claim)}) than {claim.rival}: {claim.value:+.{digits}f} (95 %: "
        f"{describe_interval(claim.low, claim.high, digits, sign='+')})"
        for claim in worse[:NAMED]
    ]
    others = f"; and {len(worse) - NAMED} more" if len(worse) > NAMED else ""
    return "worse " + "; ".join(named) + others if named else ""


def _conversations(claim: Claim) -> str:
    return f"{claim.count:,} conversation{'' if claim.count == 1 else 's'}"


def digits_of(metric: str) -> int:
    """Return the number of decimals of a lead on a metric."""
    return 4 if metric == "nats_per_byte" else 3


class Numbers(dict[str, Any]):
    """The values of a template: the fields and facts of a claim, and what is computed from them when it is named."""

    def __init__(self, comparison: Comparison, claim: Claim) -> None:
        super().__init__({**claim.model_dump(exclude={"facts"}), **claim.facts.model_dump()})
        self.comparison, self.claim = comparison, claim

    def __missing__(self, name: str) -> str:
        return COMPUTED[name](self.comparison, self.claim)


def _row(comparison: Comparison, name: str) -> Row:
    row = comparison.row(name)
    assert row is not None
    return row


def describe_lead(claim: Claim) -> str:
    """Return a lead with its interval."""
    digits = digits_of(claim.measure)
    return f"{claim.value:.{digits}f} (95 %: {describe_interval(claim.low, claim.high, digits)})"


def tell(comparison: Comparison, row: Row, rival: Row, metric: str | None = None) -> str:
    """Return the lead between two rows as a sentence, seen from the one that is ahead; empty if they were not
    compared."""
    return tell_ahead(comparison, row, rival, metric) or tell_ahead(comparison, rival, row, metric)


def tell_ahead(comparison: Comparison, row: Row, rival: Row, metric: str | None = None) -> str:
    """Return the lead of a row over a rival as a sentence; empty if it does not lead."""
    lead = comparison.lead(row, rival, metric) if comparison.leads(row, rival, metric) else None
    if lead is None:
        return ""
    return f"{comparison.metric(lead.measure).label}: {lead.row} leads {lead.rival} by {describe_lead(lead)}."


def who_of(claim: Claim) -> str:
    """Return who compared the answers, and how many."""
    return who(claim.measure, claim.told(OpinionFacts).rated, claim.told(OpinionFacts).judged)


def who(by: str, rated: int, judged: int) -> str:
    """Return who compared the answers. rated, judged: the pairs that people rated, and that a judge compared."""
    if by == "judge":
        return f"a judge that compared {judged} pairs"
    with_judge = f", which correct those of a judge on {judged}" if judged else ""
    return f"people, who rated {rated} pairs blind{with_judge}"


def wins(claim: Claim) -> str:
    """Return how often the row's answers were preferred."""
    rate, low, high = (None if end is None else f"{100 * end:.0f}" for end in (claim.value, claim.low, claim.high))
    ends = "" if low is None or high is None else f" ({low} to {high})"
    return f"{rate} of 100 comparisons with {claim.rival}{ends}"


def agreement(claim: Claim) -> str:
    """Return how far those who compared the answers agree; empty if that is not known."""
    agree = {"people": "They agree with each other", "judge": "It agrees with people"}[claim.measure]
    alpha = claim.told(OpinionFacts).alpha
    return f"{agree}: {alpha.describe()}." if alpha else ""


def agreement_of(alpha: Mapping[str, Any]) -> str:
    """Return an agreement as words: the number, its interval, and whether it rests on enough pairs."""
    return Agreement(**alpha).describe()


def tell_opinion(claim: Claim) -> str:
    """Return an opinion in sentences."""
    told = claim.told(OpinionFacts)
    out = told.can_go_out
    going = out and f"in {out.value:.0%} of the rated pairs ({out.low:.0%} to {out.high:.0%})"
    decides = "This decides between the two." if told.may_decide else f"This decides nothing: {told.because}."
    sentences = [
        f"Answers of {claim.row}: preferred in {wins(claim)}, by {who_of(claim)}.",
        agreement(claim),
        decides,
        f"An answer can go out {going}." if going else "",
    ]
    return " ".join(filter(None, sentences))


def describe_prices(own: Row, incumbent: Row) -> str:
    """Return what 1,000 answers cost in place of those of the incumbent, as a further sentence; empty if unknown."""
    if own.cost_per_1000 is None or incumbent.cost_per_1000 is None:
        return ""
    costs = (f"{cost:,.2f}" for cost in (own.cost_per_1000, incumbent.cost_per_1000))
    return f" 1,000 answers cost {' in place of '.join(costs)}."


def describe_twice(comparison: Comparison) -> str:
    """Return what scoring a prompt twice shows, as a sentence; empty if none was."""
    twice = comparison.scored_twice
    if twice is None:
        return ""
    changed = f"{twice.differing} of {twice.answers} answers differ"
    return f"{twice.row} was scored twice, in batches of another size: {changed}, and {_spread(comparison)}."


def _twice_by(comparison: Comparison) -> str:
    assert comparison.scored_twice is not None
    return f"{comparison.scored_twice.row}, which was scored twice, differ as much: {_spread(comparison)}"


def _spread(comparison: Comparison) -> str:
    spread = comparison.scored_twice.spread if comparison.scored_twice else 0.0
    return f"{comparison.metric().label} by {spread:.{digits_of(comparison.primary)}f}"


def _primary_lead(comparison: Comparison, claim: Claim) -> str:
    lead = comparison.lead(_row(comparison, claim.row), _row(comparison, claim.rival))
    return describe_lead(lead) if lead else ""


def describe_recipe(claim: Claim) -> str:
    """Return the lead of a recipe with its interval."""
    leads = claim.told(RecipeFacts).leads
    trainings = f"{claim.value:.3f} in {len(leads)} trainings"
    if claim.low is None:
        return f"{trainings} ({min(leads):.3f} to {max(leads):.3f})"
    return f"{trainings} (95 %: {describe_interval(claim.low, claim.high)}, over seeds and conversations)"


def _points(claim: Claim, value: float | None) -> str:
    """Return a part of a claim about what must be kept: in points if each answer is right or wrong."""
    assert value is not None
    return f"{100 * value:.1f}" if claim.told(KeptFacts).is_rate else f"{value:.3f}"


def _observed(comparison: Comparison, claim: Claim) -> str:
    """Return how many questions or documents would show that a drop as observed is below the margin."""
    things, told = {"task": "documents"}.get(claim.kind, "questions"), claim.told(KeptFacts)
    if claim.value is None:
        return ""
    if told.needed is None:
        tells = f"no number of {things} would show that it is below the margin"
    elif not more_would_decide(claim):
        tells = f"no suite has enough {things} to decide"
    elif claim.kind == "general":
        tells = f"about {told.needed:,} questions in all would decide"
    else:
        tells = f"about {max(1, told.needed - claim.count):,} more {things} would tell"
    if not more_would_decide(claim):
        tells += f": {TRAIN_LESS if claim.kind == 'general' else 'read the answers that changed'}"
    unit = " points" if told.is_rate else ""
    return f". At the observed drop of {_points(claim, 0.0 - claim.value)}{unit}, {tells}"


def standard_errors(screen: Claim) -> float | None:
    """Return a lead on the validation rows in standard errors; None if it is the same in every conversation."""
    error = screen.told(ScreenFacts).error
    return (screen.value or 0.0) / error if error else None


def _in_slice(comparison: Comparison, value: float | None, sign: str = "+") -> str:
    return "unknown" if value is None else f"{value:{sign}.{digits_of(comparison.primary)}f}"


def _more(comparison: Comparison, claim: Claim) -> str:
    more = claim.told(SliceFacts).more
    return "more conversations would hardly help" if more is None else f"about {more:,} more would tell"


COMPUTED: Mapping[str, Callable[[Comparison, Claim], str]] = {
    "label": lambda comparison, claim: comparison.metric(claim.measure).label,
    "primary": lambda comparison, claim: comparison.metric().label,
    "lead": lambda comparison, claim: describe_lead(claim),
    "twice_by": lambda comparison, claim: _twice_by(comparison),
    "primary_lead": _primary_lead,
    "lead_1": lambda comparison, claim: f"{claim.value:+.1f}",
    "low_1": lambda comparison, claim: "unknown" if claim.low is None else f"{claim.low:.1f}",
    "limit_1": lambda comparison, claim: f"{claim.limit:.1g}",
    "of_recipe": lambda comparison, claim: describe_recipe(claim),
    "p_": lambda comparison, claim: "unknown" if claim.p is None else f"{claim.p:.2g}",
    "who": lambda comparison, claim: who_of(claim),
    "wins": lambda comparison, claim: wins(claim),
    "why": lambda comparison, claim: why_no_evidence(_row(comparison, claim.row), _row(comparison, claim.rival)) or "",
    "clause": lambda comparison, claim: claim.told(ExplainedFacts).because,
    "ask": lambda comparison, claim: ask_for_ratings(
        comparison, _row(comparison, claim.row), _row(comparison, claim.rival)
    ),
    "trail": lambda comparison, claim: describe_lead(claim.reversed),
    "behind": lambda comparison, claim: f"{-(claim.value or 0.0):.4f}",
    "behind_ends": lambda comparison, claim: describe_interval(-(claim.high or 0.0), -(claim.low or 0.0), 4),
    "leads_": lambda comparison, claim: "leads" if (standard_errors(claim) or 0.0) >= 0 else "trails",
    "errors": lambda comparison, claim: f"{abs(standard_errors(claim) or 0.0):.1f}",
    "conversations": lambda comparison, claim: _conversations(claim),
    "value_": lambda comparison, claim: _in_slice(comparison, claim.value),
    "low_": lambda comparison, claim: _in_slice(comparison, claim.low),
    "limit_": lambda comparison, claim: _in_slice(comparison, claim.limit, ""),
    "more_": _more,
    "share": lambda comparison, claim: f"{claim.value:.0%}",
    "most": lambda comparison, claim: _points(claim, 0.0 - (claim.low or 0.0)),
    "least": lambda comparison, claim: _points(claim, 0.0 - (claim.high or 0.0)),
    "gain": lambda comparison, claim: _points(claim, claim.low),
    "margin": lambda comparison, claim: _points(claim, -claim.limit),
    "unit": lambda comparison, claim: " points" if claim.told(KeptFacts).is_rate else "",
    "before_of_all": lambda comparison, claim: str(round((claim.told(KeptFacts).before or 0.0) * claim.count)),
    "after_of_all": lambda comparison, claim: str(round((claim.told(KeptFacts).after or 0.0) * claim.count)),
    "observed": _observed,
    "not_done": lambda comparison, claim: (
        "was not scored on it" if claim.kind == "task" else "has not answered the present questions"
    ),
}
"""What templates name besides the fields and facts of a claim."""
