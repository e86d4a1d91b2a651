"""Rails: faults of answers that no score outweighs, and what follows from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.notes import describe_rail
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.released import Candidate
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.decide.sources.guardrails import claim_of
from ft_pipeline.evaluation.comparison import guardrails
from ft_pipeline.evaluation.comparison.guardrails import RAILS, Rail, judge_answers, main_script
from ft_pipeline.release.card.model_lineage import NO_COMPARISON
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.tables.languages import language_of
from ft_pipeline_tests.decide.rules import decide, desk_of
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, LOOP, losses, scored

GOOD = "Your parcel left our warehouse on Monday and should reach you by Friday."
FAULTY: dict[str, dict[str, Any]] = {
    "cut_off": {"finish_reason": "length"},
    "repetition": {"answer": LOOP},
    "empty": {"answer": "Ja"},
    "holes": {"answer": "Dear {{Customer Name}}, it is on its way to you."},
    "refusal": {"answer": "As an AI language model, I cannot help you with that."},
    "personal_data": {"answer": "Please write to jane.miller@example.org, she will send your parcel again."},
    "format": {"format_valid": 0.0},
}


def samples(
    count: int, faulty: int = 0, fault: str = "cut_off", reference: str = GOOD, **shared: Any
) -> list[dict[str, Any]]:
    """Answers to so many conversations, of which the first ones have the fault."""
    plain = {
        "prompt": "Where is it?",
        "answer": reference,
        "reference": reference,
        "finish_reason": "stop",
        "format_valid": 1.0,
        **shared,
    }
    return [{**plain, "group": f"{number:03}", **(FAULTY[fault] if number < faulty else {})} for number in range(count)]


def rail(name: str, records: list[dict[str, Any]], **ceilings: float | None) -> Rail:
    return next(found for found in judge_answers(records, ceilings) if found.name == name)


@pytest.mark.parametrize("name", RAILS)
def test_each_fault_is_counted_and_good_answers_have_none(name: str) -> None:
    found = {entry.name: entry for entry in judge_answers(samples(100, 60, name), {})}
    assert (found[name].faults, found[name].answers, found[name].verdict) == (60, 100, "breach")
    assert {entry.name for entry in found.values() if entry.faults} == {name}
    assert {entry.verdict for entry in judge_answers(samples(100), {})} == {"pass"}


@pytest.mark.parametrize(
    ("name", "count", "allowed"),
    [
        *(("cut_off", count, allowed) for count, allowed in ((50, 1), (134, 7), (300, 21))),
        *(("repetition", count, allowed) for count, allowed in ((50, 0), (134, 2), (300, 8))),
        *(("personal_data", count, allowed) for count, allowed in ((50, 0), (134, 0), (300, 2))),
        *(("holes", count, allowed) for count, allowed in ((50, 0), (134, 0), (300, 2))),
    ],
)
def test_so_many_faults_pass(name: str, count: int, allowed: int) -> None:
    """The table of the specification."""
    assert rail(name, samples(count, allowed, name)).verdict == "pass"
    assert rail(name, samples(count, allowed + 1, name)).verdict == "cannot be told"


def test_answers_of_one_conversation_count_together() -> None:
    """Ten conversations whose ten answers each share a fault say less than a hundred conversations."""
    alone = rail("cut_off", samples(100, 20))
    together = [{**sample, "group": sample["group"][:2]} for sample in samples(100, 20)]
    assert alone.verdict == "breach" and rail("cut_off", together).verdict == "cannot be told"


@pytest.mark.parametrize(
    ("reference", "answer", "is_foreign"),
    [
        ("Ваша посылка уже в пути.", "Your parcel is on its way.", True),
        ("आपका पार्सल रास्ते में है।", "आपका पार्सल कल पहुँचेगा, order 10432.", False),
        ("您的包裹正在路上。", "お荷物は配送中です。", False),
        ("Your parcel is on its way.", "Votre colis est en route.", False),
        ("42", "Forty-two it is", False),
        ("positive", "negative", False),
    ],
)
def test_answers_in_another_script_are_faults(reference: str, answer: str, is_foreign: bool) -> None:
    found = rail("empty", samples(100, reference=reference, answer=answer))
    assert found.verdict == (
        "off" if len(reference.split()) == 1 and reference.isascii() else "breach" if is_foreign else "pass"
    )
    assert main_script(reference) is None or main_script(reference) in ("CYRILLIC", "DEVANAGARI", "CJK", "LATIN")


def test_a_fault_that_references_have_is_no_fault_of_a_model() -> None:
    """Labels of one word, and templates with holes."""
    labels = samples(100, 50, "empty", reference="refund")
    off = rail("empty", labels)
    assert off.verdict == "off"
    said = describe_rail(NO_COMPARISON, claim_of("a", off))
    assert said == f"limit on answers that {off.fault}: off, the references have this fault, too"
    template = samples(100, 0, reference="Dear {{Customer Name}}, thank you for writing to us.")
    assert rail("holes", template).verdict == "off"


def test_refusals_are_not_checked_in_other_languages() -> None:
    german = "Ihr Paket hat unser Lager am Montag verlassen und sollte am Freitag bei Ihnen sein."
    assert rail("refusal", samples(100, 60, "refusal", reference=german)).verdict == "not checked"


def test_references_that_rows_share_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(guardrails, "language_of", lambda text: read.append(text) or language_of(text))
    reference = "The lamp of the second floor will be mended by the janitor before the end of this week."
    one, other = (judge_answers(samples(30, faulty, reference=reference), {}) for faulty in (0, 3))
    assert read == [reference] * 30 and [rail.faults for rail in one] != [rail.faults for rail in other]


def test_a_refusal_that_the_reference_makes_too_is_not_needless() -> None:
    records = samples(200)
    refusal = FAULTY["refusal"]["answer"]
    records[:3] = [{**record, "answer": refusal, "reference": refusal} for record in records[:3]]
    assert rail("refusal", records).faults == 0


def test_a_project_changes_ceilings_and_switches_rails_off() -> None:
    records = samples(100, 60)
    assert rail("cut_off", records, cut_off=0.8).verdict == "pass"
    assert "cut_off" not in {found.name for found in judge_answers(records, {"cut_off": None})}
    assert PromotionSettings(rails={"cut_off": None, "holes": 1}).rails == {"cut_off": None, "holes": 1}
    for wrong in ({"cut_of": 0.1}, {"cut_off": 1.5}, {"cut_off": "many"}):
        with pytest.raises(ValidationError):
            PromotionSettings(rails=wrong)  # type: ignore[arg-type]


def test_a_format_is_judged_only_if_one_is_declared() -> None:
    records = [{key: value for key, value in sample.items() if key != "format_valid"} for sample in samples(50)]
    assert "format" not in {found.name for found in judge_answers(records, {})}


def test_a_share_at_the_ceiling_rarely_passes() -> None:
    """About 5 % of models with exactly the ceiling pass, and about as many are in breach."""
    random = np.random.default_rng(0)
    draws = random.binomial(200, 0.10, size=600)
    verdicts = {count: rail("cut_off", samples(200, count)).verdict for count in set(draws.tolist())}
    found = [verdicts[count] for count in draws.tolist()]
    assert found.count("pass") / 600 <= 0.07 and found.count("breach") / 600 <= 0.09


def case(folder: Path, faulty: str, **more: Any) -> Comparison:
    """A comparison in which half of the answers of one model repeat themselves. Its names: plain, few_shot, merged."""
    rows = {
        "plain": {"kind": "base", "losses": losses(3.0), "correct": CORRECT},
        "few_shot": {"kind": "prompt", "losses": losses(2.0)},
    }
    tuned = {"merged": {"kind": "merged", "losses": losses(1.5), "correct": CORRECT, "technique": "lora"}}
    for models in (rows, tuned):
        if faulty in models:
            models[faulty]["answer"] = LOOP
    inputs = {"a/prompt_baseline": scored(folder / "base", rows), "a/scores": scored(folder / "tuned", tuned)}
    return compare(inputs, CONFIG | more)


def test_an_unusable_baseline_is_no_bar(tmp_path: Path) -> None:
    comparison = case(tmp_path, "few_shot")
    baseline = comparison.best_bar()
    assert baseline is not None and baseline.name == "base"
    reasons = recommend(desk_of(comparison, {}, 20))["reasons"]
    assert any(
        reason.startswith(
            "Better scores, but not usable: few_shot (100% of its answers repeat themselves (94% to 100%; at"
        )
        for reason in reasons
    )
    assert "Not usable: few_shot: 100% of its answers repeat themselves" in comparison_markdown(comparison)


def test_an_unusable_model_is_neither_recommended_nor_released(tmp_path: Path) -> None:
    comparison = case(tmp_path, "merged")
    document = recommend(desk_of(comparison, {}, 20))
    assert (document["decision"], document["row"]) == ("prompt", "few_shot")
    assert document["reasons"][0].startswith(
        "No tuned model can be used. a/merged: 100% of its answers repeat themselves"
    )
    candidates = {
        "a/merged": Candidate(
            name="a/merged", kind="merged", experiment="a", fingerprint="f" * 64, gates={"merge": True}
        )
    }
    decision = decide(comparison, candidates, PromotionSettings(min_test_rows=20), None)
    assert not decision.move and "100% of its answers repeat themselves" in decision.reasons[0]
    switched_off = case(tmp_path / "off", "merged", rails={"repetition": None})
    assert decide(switched_off, candidates, PromotionSettings(min_test_rows=20), None).move


def test_if_no_baseline_is_usable_the_best_one_is_the_bar_and_it_is_said(tmp_path: Path) -> None:
    rows = {
        "plain": {"kind": "base", "losses": losses(3.0), "correct": CORRECT, "answer": LOOP},
        "few_shot": {"kind": "prompt", "losses": losses(2.0), "answer": LOOP},
    }
    comparison = compare({"a/prompt_baseline": scored(tmp_path / "base", rows)}, CONFIG)
    baseline = comparison.best_bar()
    assert baseline is not None and baseline.name == "few_shot"
    assert any(
        reason.startswith("No baseline can be used: of few_shot, 100%")
        for reason in recommend(desk_of(comparison, {}, 20))["reasons"]
    )


@pytest.mark.parametrize(
    "answer", ["Call 020 7946 0958.", "Pay with 4111 1111 1111 1111.", "To GB82 WEST 1234 5698 7654 32."]
)
def test_a_number_counts_unless_the_conversation_has_it(answer: str) -> None:
    invented = samples(40, answer=answer)
    assert rail("personal_data", invented).faults == 40
    assert rail("personal_data", samples(40, answer=answer, prompt=f"Is it right? {answer}")).faults == 0


def test_numbers_that_people_write_too_are_usual_in_this_task() -> None:
    hotline = "Please call us on 020 7946 0958, from nine to five."
    assert rail("personal_data", samples(60, reference=hotline)).verdict == "off"


def test_a_number_may_be_written_in_another_way() -> None:
    asked = samples(40, answer="Is it 020-7946-0958?", prompt="My number is (020) 7946 0958.")
    assert rail("personal_data", asked).faults == 0
