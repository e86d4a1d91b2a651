"""A decision is about one champion: if somebody moves it before the decision is carried out, it is decided again."""

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.release.champion import current, history
from ft_pipeline.steps import champion
from ft_pipeline_tests.evaluation.moving_rows import Moving, load_steps


@pytest.fixture
def moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moving:
    load_steps(monkeypatch)
    return Moving(tmp_path, "old", "new", "other")


def test_a_decision_about_a_former_champion_is_not_carried_out(moving: Moving) -> None:
    rows = moving.conversations(test_share=0.4)
    for name, level in (("old", 2.0), ("other", 1.8), ("new", 0.5)):
        moving.experiment(name, rows, level=level)
    moving.release("old")
    moving.run("comparison")
    decided = moving.run("decision").document("decision.json")["decision"]
    assert (decided["move"], decided["name"]) == (True, "new/merged")
    moving.release("other")
    made = moving.run("champion")
    check = made.summary["checks"]["moved"]
    assert check["message"] == (
        "the champion is unchanged: other/merged became the champion (record 2) after this decision, which is not "
        "carried out. Decide again: `ft run`, or materialize `decision`"
    )
    assert (check["passed"], made.summary["champion"]["name"]) == (False, "other/merged")
    assert [record.name for record in history(moving.store.root)] == ["old/merged", "other/merged"]
    moving.run("comparison")
    moving.run("decision")
    assert moving.run("champion").summary["champion"]["name"] == "new/merged"
    record = current(moving.store.root)
    assert record is not None and record.previous == "other/merged"


def test_the_step_that_carries_a_decision_out_does_not_decide() -> None:
    names: dict[str, Any] = vars(champion)
    assert not {"decide_and_record", "decision_document", "decide", "PromotionSettings"} & names.keys()
