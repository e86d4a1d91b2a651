"""The order in which rows, models and results are listed changes no decision."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.claim import Claim, ShareFacts, verdict_of
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.desk import Decided
from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.released import Candidate
from ft_pipeline.ratings.rating_ledger import Rating
from ft_pipeline.ratings.results import result_of
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide.claims import breach, having, kept, not_worse, recipe, screen, with_rows
from ft_pipeline_tests.decide.rules import Decision, decide, desk_of, document_of, leads, verdict
from ft_pipeline_tests.evaluation.scored import CORRECT, ITEMS, losses, scored
from ft_pipeline_tests.examples import examples
from ft_pipeline_tests.laws.values import plain, records_of
from ft_pipeline_tests.release.test_promotion import ALL, LOSSES, SETTINGS, candidates, champion, comparison

DICE = st.randoms(use_true_random=False)


def _not_asked(found: Comparison, row: str) -> Comparison:
    others = [claim for claim in found.claims if (claim.kind, claim.row) != ("general", row)]
    return found.changed(claims=others)


FAULTS: dict[str, Callable[[Comparison, str], Comparison]] = {
    "nothing": lambda found, row: found,
    "forgets": lambda found, row: having(found, kept(row, 200)),
    "was not asked general questions": _not_asked,
    "repeats itself": lambda found, row: having(found, breach(row)),
}
"""What is changed about a row."""


def shuffled(values: Any, dice: random.Random) -> Any:
    """Return a list or a mapping in another order."""
    if isinstance(values, dict):
        return {name: values[name] for name in dice.sample(list(values), len(values))}
    return dice.sample(list(values), len(values))


def share(row: str, rival: str, value: float) -> Claim:
    """How much of the lead of a rival over the base model a row keeps."""
    facts = ShareFacts(wanted=0.8, baseline="plain")
    return Claim(kind="share", row=row, rival=rival, value=0.9, low=value, verdict=verdict_of(value, None), facts=facts)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """A comparison of any results, in which no two rows are equal."""
    levels = st.floats(1.5, 3.6).map(lambda value: round(value, 3))
    drawn = draw(st.lists(levels, min_size=5, max_size=5, unique=True))
    measured = comparison(dict(zip(LOSSES, drawn, strict=True)), noise=draw(st.sampled_from([0.05, 0.1, 0.5])))
    measured = with_rows(measured, **{name: {"experiment": name} for name in LOSSES})
    for name in LOSSES:
        measured = FAULTS[draw(st.sampled_from([*["nothing"] * 3, *FAULTS]))](measured, name)
    names, near = st.sampled_from(list(LOSSES)), st.sampled_from([-0.1, 0.1])
    every: list[st.SearchStrategy[Claim]] = [
        st.builds(share, names, names, near),
        st.builds(recipe, names, names, near, st.just([0.1]), st.none() | near),
        st.builds(not_worse, st.just("answers"), names, names, st.just("chrf"), near, st.none() | near, st.just(0.05)),
        st.builds(screen, names, st.just("plain"), near, st.just(0.05)),
    ]
    # The first claim of a row and a rival counts, so that each has one.
    return having(measured, *(claim for drawn in every for claim in draw(st.lists(drawn, max_size=3, unique_by=key))))


def key(claim: Claim) -> tuple[str, str]:
    return claim.row, claim.rival


def in_any_order(value: Any) -> Any:
    """Return evidence with its lists sorted: it lists what was measured, in the order of the results."""
    if isinstance(value, dict):
        return {name: in_any_order(entry) for name, entry in value.items()}
    return sorted(map(in_any_order, value), key=repr) if isinstance(value, list | tuple) else value


def concluded(measured: Comparison, decision: Decision, standing: str | None) -> dict[str, Any]:
    """Return what a decision, its verdict and the recommendation conclude."""
    found = verdict(measured, decision, standing)
    document = document_of(decision, found, standing)
    advice = recommend(desk_of(measured, {}, 20, Decided.of(document)))
    return {
        "decision": (decision.move, decision.name, decision.reasons),
        "told": in_any_order(decision.model_dump(exclude={"of_claims"})),
        "verdict": found.model_dump(),
        "advice": {name: advice[name] for name in ("decision", "row", "experiment", "reasons")},
    }


@examples(25)
@given(comparisons(), st.sampled_from([None, "few_shot", "qlora", "gone"]), st.integers(0, 3), DICE)
def test_the_order_of_results_changes_no_decision(
    measured: Comparison, standing: str | None, earlier: int, dice: random.Random
) -> None:
    record, exposure = champion(standing) if standing else None, Exposure(count=earlier)
    row = standing if standing in LOSSES else None
    mixed = measured.changed(**{name: shuffled(getattr(measured, name), dice) for name in ("claims", "rows")})
    one, other = (
        concluded(world, decide(world, named, SETTINGS, record, {}, exposure), row)
        for world, named in ((measured, ALL), (mixed, shuffled(ALL, dice)))
    )
    assert other == one


@pytest.mark.parametrize("rivals", [("few_shot", "plain"), ("plain", "few_shot")])
def test_recipes_that_do_not_lead_are_told_in_one_order(rivals: tuple[str, str]) -> None:
    measured = having(comparison(LOSSES), *(recipe("qlora", rival, -0.1, [-0.1], -0.2) for rival in rivals))
    told = decide(measured, candidates("qlora"), SETTINGS, None).reasons[0]
    assert -1 < told.index("beat few_shot") < told.index("beat plain")


@given(comparisons())
def test_a_lead_between_rows_is_the_negative_of_the_reversed_one(measured: Comparison) -> None:
    for row in measured.rows:
        for rival in measured.rows:
            lead, back = measured.lead_over(row, rival), measured.lead_over(rival, row)
            assert (lead is None) == (back is None) == (row is rival)
            if lead is not None and back is not None:
                assert (lead.value, lead.low, lead.high) == (-back.value, -(back.high or 0), -(back.low or 0))
                assert not (measured.better(row, rival) and measured.better(rival, row))


@given(comparisons(), st.sampled_from([*list(FAULTS)[1:], "failed a check", "too few rows"]))
def test_no_row_with_a_fault_is_released(measured: Comparison, fault: str) -> None:
    measured = FAULTS.get(fault, FAULTS["nothing"])(measured, "qlora")
    named = ALL | (candidates("qlora", gates={"merge": False}) if fault == "failed a check" else {})
    least = measured.test_rows + 1 if fault == "too few rows" else SETTINGS.min_test_rows
    rules = SETTINGS.model_copy(update={"min_test_rows": least})
    decision = decide(measured, named, rules, None)
    assert decision.name != "qlora" and not (decision.move and fault == "too few rows")


LEVELS = st.sampled_from([1.8, 2.0, 2.0, 2.4, 3.0])


@examples(4)
@given(st.fixed_dictionaries(dict.fromkeys(("plain", "few_shot", "other", "a", "b"), LEVELS)), DICE)
def test_the_order_of_models_and_items_changes_no_decision(levels: dict[str, float], dice: random.Random) -> None:
    """From the files with the scores to the decision. Equal models are among them."""
    kinds = {"plain": "base", "few_shot": "prompt", "other": "prompt", "a": "merged", "b": "merged"}
    rows = {
        name: {"kind": kinds[name], "losses": losses(level), "correct": CORRECT, "technique": "lora" * (name in "ab")}
        for name, level in levels.items()
    }
    groups = {"a/prompt_baseline": ["plain", "few_shot", "other"], "a/scores": ["a"], "b/scores": ["b"]}
    config = {"primary_metric": "loss", "bases": {"a/scores": "x", "b/scores": "x", "a/prompt_baseline": "x"}}

    def decided(order: dict[str, list[str]], items: list[int]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            inputs = {}
            for number, (source, names) in enumerate(order.items()):
                inputs[source] = scored(Path(folder) / str(number), {name: rows[name] for name in names})
                path = inputs[source] / "samples.parquet"
                at = [begin * ITEMS + item for begin in range(len(names)) for item in items]
                pq.write_table(pq.read_table(path).take(at), path)
            measured = compare(inputs, config)
        named = {
            row.name: Candidate(
                name=row.name,
                kind="merged" if row.kind == "merged" else "prompt",
                experiment=row.experiment,
                fingerprint=row.name,
            )
            for row in measured.rows
            if row.kind in ("merged", "prompt")
        }
        decision = decide(measured, named, PromotionSettings(min_test_rows=20), None)
        return (
            (decision.move, decision.name, decision.reasons, sorted(decision.failed.items())),
            [row.name for row in measured.rows],
            [(claim.row, claim.rival, claim.measure) for claim in leads(measured) if (claim.value or 0.0) > 1e-9],
        )

    mixed = {source: shuffled(names, dice) for source, names in shuffled(groups, dice).items()}
    assert decided(mixed, shuffled(range(ITEMS), dice)) == decided(groups, list(range(ITEMS)))


RATINGS = st.lists(
    records_of(
        Rating,
        candidate=st.just("a"),
        rival=st.just("b"),
        item=st.sampled_from(["x:1", "x:3", "y:1", "z:1"]),
        rater=st.sampled_from(["ann", "bob"]),
    ),
    min_size=1,
    max_size=6,
)


@given(RATINGS, DICE)
def test_the_order_of_verdicts_changes_no_result(ratings: list[Rating], dice: random.Random) -> None:
    one, other = (plain(result_of("a", "b", rated)) for rated in (ratings, shuffled(ratings, dice)))
    for name in ("win_rate", "can_go_out", "agreement"):
        assert one.pop(name) == pytest.approx(other.pop(name))
    assert one == other
