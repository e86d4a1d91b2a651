"""Questions of one pattern are no independent evidence: intervals are over clusters, and few of them decide nothing."""

import numpy as np
import pytest

from benchmarks.verdict_rates import METRIC, PROMPT, TUNED, compared, said
from ft_pipeline.decide.outcome import needed_conversations
from ft_pipeline.decide.promote import Court, decide
from ft_pipeline.decide.released import Candidate
from ft_pipeline.evaluation.comparison.estimates import estimate_samples
from ft_pipeline.evaluation.comparison.guardrails import judge_answers
from ft_pipeline.evaluation.comparison.leads import interval
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide.claims import kept
from ft_pipeline_tests.evaluation.test_guardrails import samples

COUNT = 140


def world(clusters: int, lead: float):
    """Return a comparison of 140 answers, of which the tuned model has `lead` more right, by equal patterns."""
    patterns = np.arange(COUNT) % clusters
    order = np.random.default_rng(0).permutation(COUNT)
    prompt, tuned = np.zeros(COUNT), np.zeros(COUNT)
    prompt[order[: COUNT // 2]] = 1
    tuned[order[: COUNT // 2 + round(lead * COUNT)]] = 1
    return compared(prompt, tuned, patterns)


def test_a_clear_lead_over_few_patterns_decides_nothing():
    found = said(world(14, 0.3))
    assert found.kind == "undecided"
    assert found.sentence.startswith(
        "Not decided yet: the test conversations are 14 clusters of like questions, and 15 are needed: answers to like "
        "questions are no independent evidence. Add questions of other patterns to the test rows."
    )
    assert "140 conversations in 14 clusters of like questions" in found.basis


def test_few_patterns_are_named_of_a_model_that_forgets_too():
    comparison = world(14, 0.3)
    others = [claim for claim in comparison.claims if claim.kind != "general"]
    found = said(comparison.changed(claims=[*others, kept(TUNED, 100)]))
    assert "14 clusters of like questions, and 15 are needed" in found.sentence
    assert f"Add questions of other patterns to the test rows. Besides, {TUNED} cannot go out" in found.sentence
    assert "forgets: 100 of 400 questions were lost" in found.sentence
    assert "points (" not in found.sentence.split("Besides")[0], "a lead over few patterns is no evidence"


def test_the_same_lead_over_enough_patterns_decides():
    assert said(world(20, 0.3)).kind == "use_tuned"


def test_without_enough_patterns_nothing_is_said_against_tuning():
    assert said(world(20, -0.2)).kind == "prompt"
    found = said(world(14, -0.2))
    assert found.kind == "undecided"
    assert "14 clusters" in found.sentence


@pytest.mark.parametrize(("clusters", "outcome"), [(COUNT, None), (20, "shown"), (14, "open")])
def test_the_requirement_is_asked_where_questions_are_alike(clusters, outcome):
    candidates = {TUNED: Candidate(name=TUNED, kind="merged", experiment="qlora", fingerprint="f" * 9)}
    failed = decide(Court(world(clusters, 0.3), candidates, PromotionSettings())).failed[TUNED]
    assert [claim.verdict for claim in failed if claim.kind == "clusters"] == (["open"] if outcome == "open" else [])


def test_a_project_that_decides_on_fewer_conversations_decides_on_as_few_clusters():
    assert not world(14, 0.3).has_few_clusters(10)
    assert world(9, 0.3).has_few_clusters(10)


def test_the_conversations_that_would_decide_follow_from_the_clustered_error():
    def most(clusters):
        comparison = world(clusters, 0.02)
        lead = comparison.deciding(comparison.row(TUNED), comparison.row(PROMPT))
        return needed_conversations(comparison, lead, 0.025, 0.02).most

    assert most(20) > most(COUNT)


def test_intervals_and_rails_are_over_clusters():
    answers = samples(100, 20)
    alike = [{**sample, "cluster": str(number // 10)} for number, sample in enumerate(answers)]
    rails = [next(rail for rail in judge_answers(part, {}) if rail.faults) for part in (answers, alike)]
    assert rails[1].high - rails[1].low > rails[0].high - rails[0].low
    scored = [{**sample, METRIC: float(number < 30)} for number, sample in enumerate(answers)]
    of_clusters = [{**sample, "cluster": str(number // 10)} for number, sample in enumerate(scored)]
    widths = []
    for part in (scored, of_clusters):
        score = interval(estimate_samples({"a": part}, {})["a"][METRIC])
        widths.append(score.high - score.low)
    assert widths[1] > widths[0]
