"""Held-out values by conversation: which evaluations are kept, that they survive a stop, and what an old one lacks."""

import json
from pathlib import Path

import pytest
from transformers import TrainerState

from ft_pipeline.training import adapter
from ft_pipeline.training.trainer.held_out_values import HELD_OUT, HeldOutValues
from ft_pipeline_tests.training.subject import PAIRS, conversation, job, make_training_data, settings, support_rows

ROWS = [{"id": "a"}, {"id": "b"}, {"id": "a"}]
"""Two rows are of one conversation."""
LOSSES = {0: 3.0, 2: 2.0, 4: 1.0, 6: 1.5}
"""Step 4 is the best one."""


def state_at(step: int) -> TrainerState:
    history = [{"step": number, "eval_loss": loss} for number, loss in LOSSES.items() if number <= step]
    return TrainerState(global_step=step, log_history=history)


def evaluate(values: HeldOutValues, *steps: int) -> HeldOutValues:
    for step in steps:
        values.measure([2, 1, 2], {"eval_loss": [LOSSES[step], 0.5, 2.0], "eval_right": [step == 4] * 3})
        values.keep(state_at(step))
    return values


def test_the_first_and_the_best_evaluation_are_kept_by_conversation() -> None:
    assert evaluate(HeldOutValues(ROWS), *LOSSES).document() == {
        "best_step": 4,
        "items": [4, 1],
        "measures": {
            "eval_loss": {"first": [5.0, 0.5], "best": [3.0, 0.5], "is_rate": False},
            "eval_right": {"first": [0, 0], "best": [2, 1], "is_rate": False},
        },
    }


def test_a_measure_that_each_item_has_or_has_not_is_a_rate() -> None:
    values = HeldOutValues(ROWS)
    for step in (0, 4):
        values.measure([1, 1, 1], {"eval_right": [step == 4, 0, 1]})
        values.keep(state_at(step))
    document = values.document()
    assert document is not None and document["measures"]["eval_right"]["is_rate"]


def test_what_is_kept_survives_a_stop(tmp_path: Path) -> None:
    evaluate(HeldOutValues(ROWS), 0, 2).save(tmp_path)
    resumed = HeldOutValues(ROWS)
    resumed.load(tmp_path)
    assert evaluate(resumed, 4, 6).document() == evaluate(HeldOutValues(ROWS), *LOSSES).document()


def test_a_checkpoint_of_an_older_version_gives_no_document(tmp_path: Path) -> None:
    resumed = HeldOutValues(ROWS)
    resumed.load(tmp_path)
    assert evaluate(resumed, 4).document() is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    two_turns = conversation(9100, PAIRS[:2], "validation")
    folder, experiment = tmp_path_factory.mktemp("sft"), settings(num_train_epochs=1)
    data = make_training_data(folder / "data", tiny_base, [*support_rows(), two_turns], experiment)
    work = job("adapter", folder / "run", experiment, {"training_data": data, "base_model": tiny_base})
    adapter.run(work)
    return work.out


def test_the_values_of_a_training_are_those_of_its_log(trained: Path) -> None:
    document = json.loads((trained / HELD_OUT).read_text())
    logged = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = {entry["step"]: entry["eval_loss"] for entry in logged if "eval_loss" in entry}
    found = document["measures"]["eval_loss"]
    assert len(document["items"]) == len(PAIRS) + 1
    for when, step in (("first", 0), ("best", document["best_step"])):
        assert sum(found[when]) / sum(document["items"]) == pytest.approx(losses[step], rel=1e-6)
    assert losses[document["best_step"]] == min(loss for step, loss in losses.items() if step)
