"""A likelihood decides nothing about a model that does not imitate: comparison, promotion, verdict, recommendation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.conclusion import Verdict
from ft_pipeline.decide.desk import Decided
from ft_pipeline.decide.likelihood_evidence import why_no_evidence
from ft_pipeline.decide.notes import footnotes
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.judge.judged_pairs import rivals_by_candidate
from ft_pipeline.ratings.commands import pairs_worth_rating
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide.rules import Decision, decide, desk_of, document_of, verdict
from ft_pipeline_tests.evaluation.opined import ITEMS, mixed, opinion_inputs, rate
from ft_pipeline_tests.evaluation.scored import CORRECT, scored
from ft_pipeline_tests.evaluation.sliced import talk, write_talks
from ft_pipeline_tests.release.test_promotion import candidates

AUTO: dict[str, Any] = {"primary_metric": "auto", "learned_from": {"dpo": "preferences", "grpo": "rewards"}}
NO_EVIDENCE = "was trained to prefer, not to imitate, so that its likelihood of the references is no evidence"
SETTINGS = PromotionSettings(min_test_rows=20)


def compared(
    folder: Path,
    config: dict[str, Any] | None = None,
    opinions: dict[str, Path] | None = None,
    checked: bool = False,
    conversations: Path | None = None,
    **leads: float,
) -> Comparison:
    """A base model, and a tuned one with each lead in nats per byte. checked: answers are also exact or not."""
    generator = np.random.default_rng(9)
    base = 1.5 + 0.2 * generator.standard_normal(ITEMS)

    def row(kind: str, lead: float, **values: Any) -> dict[str, Any]:
        nats = base - lead - 0.1 * generator.standard_normal(ITEMS) * (lead != 0)
        exact = {"exact": [float(number % 10 < 5 + 20 * lead) for number in range(ITEMS)]} if checked else {}
        loss = {"losses": (nats + 1).tolist(), "nats": nats.tolist()}
        return {"kind": kind, **loss, "correct": CORRECT, **exact, **values}

    inputs = {"a/prompt_baseline": scored(folder / "base", {"plain": row("base", 0.0)})}
    for name, lead in leads.items():
        forms = {kind: row(kind, lead, technique="lora") for kind in ("adapter", "merged")}
        inputs[f"{name}/scores"] = scored(folder / name, forms)
    return compare(inputs | (opinions or {}), config or AUTO, conversations=conversations)


def decided(found: Comparison) -> tuple[Decision, Verdict]:
    names = [row.name for row in found.rows if row.kind == "merged"]
    decision = decide(found, candidates(*names), SETTINGS, None)
    return decision, verdict(found, decision, None)


def recommended(found: Comparison) -> dict[str, Any]:
    decision, said = decided(found)
    facts = {row.experiment: {"train_rows": 900} for row in found.rows if row.experiment}
    by_rules = document_of(decision, said, None)
    return recommend(desk_of(found, facts, 20, Decided.of(by_rules)))


def test_ratings_and_a_judge_are_asked_about_it_first(tmp_path: Path) -> None:
    found = compared(tmp_path, sft=0.3, other=0.2, dpo=-0.4)
    assert str(pairs_worth_rating(found, [])[0]["candidate"]).startswith("dpo/")
    assert ("dpo/merged", "base") in rivals_by_candidate(found)


@pytest.mark.parametrize("lead", [0.4, -0.4])
def test_neither_a_lower_nor_a_higher_likelihood_decides_about_dpo(tmp_path: Path, lead: float) -> None:
    found = compared(tmp_path, dpo=lead)
    assert found.primary_metric == "nats_per_byte"
    dpo, base = found.row("dpo/merged"), found.row("base")
    assert dpo is not None and base is not None and dpo.learned_from == "preferences"
    assert found.is_silent(dpo, base)
    assert found.ahead(dpo, base) is None and found.ahead(dpo, base, "chrf") is not None
    assert (found.of_kind("screen"), found.changes) == ([], None)
    assert {entry.because for entry in found.incomparable if entry.metric == "nats_per_byte"} >= {
        f"dpo/merged {NO_EVIDENCE}"
    }
    decision, said = decided(found)
    assert not decision.move and decision.tests == []
    assert decision.failed["dpo/merged"] == [
        f"is not decided against base: dpo/merged {NO_EVIDENCE}. To decide, rate 50 pairs with `ft rate dpo/merged "
        "base`, or set `decides: true` for a check"
    ]
    assert (said.kind, said.row) == ("rate", "dpo/merged")
    assert said.sentence.startswith("Not decided yet: dpo/merged is not decided against base: ")
    document = recommended(found)
    assert (document["decision"], document["row"]) == ("rate", "base")
    assert document["reasons"][0].startswith("To decide about dpo/merged, rate 50 pairs with `ft rate dpo/")
    text = " ".join([*document["reasons"], said.sentence, comparison_markdown(found)])
    assert "Do not fine-tune" not in text and "worse" not in text


def test_the_forms_of_one_training_are_compared_by_likelihood(tmp_path: Path) -> None:
    found = compared(tmp_path, dpo=0.2)
    adapter, merged = found.row("dpo/adapter"), found.row("dpo/merged")
    assert adapter is not None and merged is not None and found.ahead(adapter, merged) is not None


def test_models_that_imitate_are_compared_as_ever_beside_one_that_does_not(tmp_path: Path) -> None:
    found = compared(tmp_path, sft=0.3, dpo=0.5)
    decision, said = decided(found)
    assert decision.move and decision.name == "sft/merged" and [test.name for test in decision.tests] == ["sft/merged"]
    assert "Use the fine-tuned model sft/merged" in said.sentence
    document = recommended(found)
    assert document["experiment"] == "sft"
    assert any(
        reason.startswith("dpo/merged was trained to prefer, not to imitate. So the likelihood of the references is no")
        for reason in document["reasons"]
    )
    kept = {name for claim in found.of_kind("share") for name in (claim.row, claim.rival)}
    assert kept == {"sft/merged", "sft/adapter"}
    assert found.changes is not None and found.changes.after.startswith("sft/")


def test_rewards_are_named_and_two_such_models_are_not_compared_either(tmp_path: Path) -> None:
    found = compared(tmp_path, grpo=0.1, dpo=0.3)
    grpo, dpo = found.row("grpo/merged"), found.row("dpo/merged")
    assert grpo is not None and dpo is not None and found.ahead(grpo, dpo) is None
    assert found.is_silent(grpo, dpo) and why_no_evidence(grpo, dpo) == (
        "grpo/merged was trained for rewards and dpo/merged was trained to prefer, not to imitate, so that their "
        "likelihood of the references is no evidence"
    )
    (note,) = [line for line in footnotes(found) if "not to imitate" in line]
    assert note.endswith("decide by ratings (`ft rate`), a judge, or a check with `decides: true`.")


def test_a_named_likelihood_is_obeyed_with_a_notice(tmp_path: Path) -> None:
    found = compared(tmp_path, AUTO | {"primary_metric": "nats_per_byte"}, dpo=0.4)
    decision, _ = decided(found)
    assert decision.move and decision.name == "dpo/merged"
    assert (
        "dpo/adapter and dpo/merged were trained to prefer, not to imitate. Their answers may be better where nats per "
        "byte is worse. The project names this metric."
    ) in footnotes(found)


def test_a_check_decides_as_ever(tmp_path: Path) -> None:
    found = compared(tmp_path, checked=True, dpo=0.2, sft=-0.1)
    assert found.primary_metric == "exact_match"
    decision, _ = decided(found)
    assert decision.move and decision.name == "dpo/merged"
    assert any(line.endswith("no evidence for or against them.") for line in footnotes(found))


def test_people_decide_about_a_model_that_predicts_the_references_worse(tmp_path: Path) -> None:
    rated = [{**row, "candidate": "dpo/merged"} for row in rate(mixed(won=48, lost=12))]
    found = compared(tmp_path, opinions=opinion_inputs(tmp_path, rated), dpo=-0.4)
    decision, said = decided(found)
    assert decision.move and decision.name == "dpo/merged" and len(decision.tests) == 1
    assert "its answers were preferred in 80 of 100 comparisons with base" in said.sentence


def test_a_slice_that_must_hold_cannot_be_told_by_a_likelihood(tmp_path: Path) -> None:
    talks = write_talks(tmp_path / "talks", [talk(number, "money back", "Yes.") for number in range(ITEMS)])
    slices = {"refund": {"matches": "money back", "must_hold": True, "margin": 0.05}}
    rated = [{**row, "candidate": "dpo/merged"} for row in rate(mixed(won=48, lost=12))]
    config, opinions = AUTO | {"slices": slices}, opinion_inputs(tmp_path, rated)
    found = compared(tmp_path, config, opinions, conversations=talks, dpo=-0.4)
    assert all(not lead.row.startswith("dpo") for lead in found.of_kind("slice_lead"))
    decision, _ = decided(found)
    assert not decision.move
    assert decision.failed["dpo/merged"] == [
        "whether it holds in refund (134 conversations) against base cannot be told: the likelihood says nothing about "
        "the two. Set `decides: true` for a check"
    ]


def test_without_such_models_nothing_is_said_of_them(tmp_path: Path) -> None:
    found = compared(tmp_path, {"primary_metric": "auto"}, sft=0.4)
    assert all(row.learned_from is None for row in found.rows)
    assert footnotes(found) == []
