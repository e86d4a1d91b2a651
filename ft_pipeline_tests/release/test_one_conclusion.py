"""The recommendation concludes nothing but the verdict, whatever was measured."""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.conclusion import OPEN, Verdict
from ft_pipeline.decide.desk import Decided
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide.claims import Of, breach, having, kept, unasked_probes, with_rows
from ft_pipeline_tests.decide.rules import decide, desk_of, document_of, verdict
from ft_pipeline_tests.release.test_promotion import ALL, LOSSES, champion, comparison
from ft_pipeline_tests.release.test_verdict import some_repeat


def recommended(
    measured: Comparison, standing: str | None, train_rows: int = 900, least: int = 20
) -> tuple[Verdict, str | None, dict[str, Any]]:
    """The verdict, the champion after it, and the recommendation."""
    decision = decide(measured, ALL, PromotionSettings(min_test_rows=least), champion(standing) if standing else None)
    found = verdict(measured, decision, standing)
    by_verdict = Decided.of(document_of(decision, found, standing))
    desk = desk_of(measured, {"qlora": {"train_rows": train_rows}}, least, by_verdict)
    return found, decision.name if decision.move else standing, recommend(desk)


Faults = Mapping[str, Sequence[Of]]


def of_training(measured: Comparison, faults: Faults, passages: int = 0) -> Comparison:
    """The comparison with claims about some rows, in which adapter and merged model are of one training.

    passages: number of those that few_shot retrieves.
    """
    own = {"experiment": "qlora", "technique": "qlora"}
    found = with_rows(measured, qlora=own, adapter=own, few_shot={"passages": passages})
    return having(found, *(made(name) for name, several in faults.items() for made in several))


CONCLUDES = re.compile(
    r"(?<!best )\buse\b|\bserve\b|\bkeep\b|\bcollect\b|prompt the|before you decide|until then|do not fine-tune|"
    "not decided",
    re.IGNORECASE,
)


def require_one_conclusion(
    measured: Comparison, found: Verdict, champion_row: str | None, document: dict[str, Any]
) -> None:
    """Fail if the recommendation says to use another row than the verdict, or if a reason concludes."""
    used = measured.row(document["row"])
    if found.kind not in OPEN:
        assert document["row"] == found.row
    elif champion_row is not None:
        assert document["row"] == champion_row
    else:
        assert used is None or (used.kind in ("base", "prompt") and measured.usable(used))
    if found.kind in OPEN:
        assert document["decision"] in ("measure" if found.kind == "measure" else "more_data", "train")
    elif found.kind == "none":
        assert document["decision"] == "none"
    else:
        assert used is not None
        assert document["decision"] == (used.technique or ("retrieval" if used.passages else "prompt"))
        assert document["experiment"] == used.experiment
    for reason in document["reasons"]:
        if reason.startswith("The model lacks facts, so use retrieval"):
            assert document["decision"] == "retrieval" and f"{document['row']} leads" in reason
        else:
            assert not CONCLUDES.search(reason), reason
    merge_is_blamed = any(reason.startswith("Merging lowers") for reason in document["reasons"])
    adapter, bar = measured.row("adapter"), measured.best_bar()
    if found.kind == "prompt" and merge_is_blamed:
        assert adapter is not None and bar is not None and not measured.leads(adapter, bar)


SITUATIONS: dict[str, tuple[Faults, int]] = {
    "plain": ({}, 0),
    "passages": ({}, 2),
    "breach of the tuned model": ({"qlora": [breach], "adapter": [breach]}, 0),
    "breach of the prompt": ({"few_shot": [breach]}, 0),
}


@pytest.mark.parametrize("standing", [None, "few_shot", "qlora"])
@pytest.mark.parametrize("qlora", [2.0, 2.95, 3.05])
@pytest.mark.parametrize("lost", [0, 30, 60])
@pytest.mark.parametrize("train_rows", [60, 900])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_recommendation_concludes_nothing_but_the_verdict(
    standing: str | None, qlora: float, lost: int, train_rows: int, situation: str
) -> None:
    losses = {**LOSSES, "qlora": qlora, "adapter": qlora - 0.01}
    measured = of_training(having(comparison(losses), kept("qlora", lost)), *SITUATIONS[situation])
    found, champion_row, document = recommended(measured, standing, train_rows)
    require_one_conclusion(measured, found, champion_row, document)
    assert any("Tuning pays off" in reason for reason in document["reasons"]) == (found.kind == "use_tuned")
    assert not any("more rows" in reason.lower() for reason in document["reasons"])  # without a learning curve


@pytest.mark.parametrize("standing", [None, "few_shot", "qlora"])
@pytest.mark.parametrize("qlora", [2.0, 2.95, 3.05, 3.2, 3.4])
def test_only_a_bound_says_that_fine_tuning_is_worth_nothing(standing: str | None, qlora: float) -> None:
    """The interval is ± 0.1 nats, and 1 % of the 3.0 nats of few_shot is worth a training: a lead of -0.05 may be one
    of 0.05, and one of -0.2 may not. Whatever the champion is, and whoever came first."""
    found = recommended(of_training(comparison({**LOSSES, "qlora": qlora, "adapter": qlora}), {}), standing)[0]
    shown = {2.0: ("use_tuned", "keep"), 2.95: ("undecided",), 3.05: ("undecided",)}.get(qlora, ("prompt",))
    assert found.kind in shown


@pytest.mark.parametrize("standing", [None, "few_shot", "qlora"])
def test_a_merge_that_lost_quality_decides_nothing_about_tuning(standing: str | None) -> None:
    measured = of_training(comparison({**LOSSES, "qlora": 3.4}), {})
    found, champion_row, document = recommended(measured, standing)
    assert (found.kind, found.row) == ("undecided", "qlora")
    assert found.sentence == (
        "Not decided yet: qlora lost quality when it was merged. On loss, adapter leads it by 1.390 (95 %: 1.290 to "
        "1.490), and few_shot by 0.990 (95 %: 0.890 to 1.090). `ft promote adapter` releases the adapter, if it "
        "passes. Until then, few_shot is the champion."
    )
    require_one_conclusion(measured, found, champion_row, document)
    assert "Merging lowers the quality. loss: adapter leads qlora by 1.390" in " ".join(document["reasons"])
    behind = of_training(comparison({**LOSSES, "qlora": 3.4, "adapter": 3.1}), {})
    assert recommended(behind, standing)[0].kind == "prompt"


def drawn(dice: random.Random) -> Comparison:
    """A comparison of any results: losses, forgetting, faults, passages."""
    qlora = dice.choice([2.0, 2.6, 2.95, 2.99, 3.05, 3.4])
    losses = {**LOSSES, "qlora": qlora, "adapter": dice.choice([2.01, qlora - 0.05, qlora - 0.01, qlora + 0.2])}
    lost = kept("qlora", *dice.choice([(0,), (30,), (60,), (30, 15)]))
    nothing: list[list[Of]] = [[]] * 6
    faults = {name: dice.choice([*nothing, [breach], [some_repeat], [unasked_probes]]) for name in ("qlora", "adapter")}
    faults |= {name: dice.choice([*nothing, [breach]]) for name in ("plain", "system_prompt")}
    of_prompt, passages = dice.choice([([], 0), ([], 0), ([], 0), ([], 2), ([breach], 0)])
    return of_training(having(comparison(losses), lost), faults | {"few_shot": of_prompt}, passages)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_no_comparison_makes_the_recommendation_conclude_something_else(seed: int) -> None:
    dice, kinds = random.Random(seed), set()
    for _ in range(100):
        measured, standing = drawn(dice), dice.choice([None, None, "few_shot", "qlora", "plain"])
        found, champion_row, document = recommended(
            measured, standing, dice.choice([60, 300, 900]), dice.choice([20, 20, 20, 60])
        )
        require_one_conclusion(measured, found, champion_row, document)
        kinds.add(found.kind)
    assert kinds == {"use_tuned", "prompt", "retrieval", "undecided", "measure", "keep", "none"}
