"""A task that word counts solve ends in "a classifier is enough", and never in the tuned model."""

import random
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.decide.build import build
from ft_pipeline.decide.promote import Court, decide
from ft_pipeline.decide.released import Candidate
from ft_pipeline.decide.verdict import Summary
from ft_pipeline.evaluation.rivals.majority import majority
from ft_pipeline.evaluation.rivals.word_model import WordModel
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.evaluation.scored import scored
from ft_pipeline_tests.evaluation.test_rivals import labelled

TESTED = 134
"""Test rows of each world."""
CONFIG = {
    "primary_metric": "auto",
    "bases": {"a/prompt_baseline": "1", "lora/scores": "1"},
    "base_names": {"1": "small"},
}


def row(kind: str, right: list[bool], **more: Any) -> dict[str, Any]:
    exact = [float(each) for each in right]
    return {"kind": kind, "exact": exact, "chrf": [100.0 * each for each in exact], **more}


def world(folder: Path, seed: int) -> dict[str, Path]:
    """Score real rivals, a prompt that is right in 30 % and a tuned model that is right in 97 % of the answers."""
    chance = random.Random(seed)
    training, asked = labelled(90, seed), labelled(TESTED, 1_000 + seed)
    model = WordModel.fit(training, [])
    by_words = [found.text for found in model.answers([each.question for each in asked])]
    constant = majority(training, seed).reference
    nats = [1.0 + chance.random() for _ in asked]
    of_base = {"losses": nats, "correct": [True] * 400}
    prompts = {
        "plain": row("base", [chance.random() < 0.1 for _ in asked], **of_base),
        "few_shot": row("prompt", [chance.random() < 0.3 for _ in asked], losses=nats),
    }
    tuned = {"merged": row("merged", [chance.random() < 0.97 for _ in asked], **of_base, technique="lora")}
    rivals = {
        "majority": row("constant", [constant == each.reference for each in asked]),
        "word_model": row("classifier", [text == each.reference for text, each in zip(by_words, asked, strict=True)]),
    }
    made = {"a/prompt_baseline": prompts, "lora/scores": tuned, "rivals/rival_scores": rivals}
    return {key: scored(folder / key.replace("/", "-"), rows) for key, rows in made.items()}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))])
def test_a_task_that_words_solve_needs_no_language_model(seed: int, tmp_path: Path) -> None:
    comparison = build(world(tmp_path, seed), CONFIG)
    kinds: dict[str, Any] = {"lora/merged": "merged", "few_shot": "prompt", "word_model": "classifier"}
    passed = {"token_audit": True, "merge": True}
    candidates = {
        name: Candidate(
            name=name,
            kind=kind,
            experiment="lora" if kind == "merged" else None,
            fingerprint=name,
            gates=passed if kind == "merged" else {},
        )
        for name, kind in kinds.items()
    }
    decision = decide(Court(comparison, candidates, PromotionSettings()))
    verdict = Summary(comparison, decision, None, has_champion=False).verdict()
    assert (verdict.kind, verdict.row, decision.name) == ("classifier", "word_model", "word_model")
    assert verdict.sentence.startswith("A classifier is enough")
