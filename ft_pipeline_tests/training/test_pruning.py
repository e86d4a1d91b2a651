"""A training of a search stops when its held-out loss is behind, and is otherwise the training that it would be."""

import json
from dataclasses import replace

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.search.sweep import HANDLING, PRUNED_FILE
from ft_pipeline.search.trials import held_out_losses
from ft_pipeline.training import adapter
from ft_pipeline.training.trainer import pruning
from ft_pipeline_tests.training.subject import job, make_training_data, settings, support_rows


def test_a_training_that_is_behind_stops_and_leaves_its_losses(tmp_path, tiny_base):
    experiment = settings(max_steps=9)
    data = make_training_data(tmp_path / "data", tiny_base, support_rows(), experiment)
    inputs = {"training_data": data, "base_model": tiny_base}
    alone, ahead, behind = (job("adapter", tmp_path / name, experiment, inputs) for name in ("a", "b", "c"))
    whole = adapter.run(alone)
    ahead = replace(ahead, handling={**ahead.handling, HANDLING: [[99.0] * 20] * 3})
    assert adapter.run(ahead)["best_eval_loss"] == whole["best_eval_loss"]
    weights = "adapter_model.safetensors"
    assert (ahead.out / weights).read_bytes() == (alone.out / weights).read_bytes()

    behind = replace(behind, handling={**behind.handling, HANDLING: [[0.0] * 20] * 3})
    with pytest.raises(UserError, match=rf"The search stopped this training at step 6 of {whole['steps']}"):
        adapter.run(behind)
    record = json.loads((behind.work / PRUNED_FILE).read_text(encoding="utf-8"))
    assert record[HANDLING] == behind.handling[HANDLING]
    assert record["steps"] == 6 and len(held_out_losses(record["log_history"])) == 2
    assert not (behind.out / weights).exists()


def test_the_search_and_the_trainer_use_the_same_names():
    assert (pruning.HANDLING, pruning.PRUNED_FILE) == (HANDLING, PRUNED_FILE)
