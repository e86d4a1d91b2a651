"""The embedded model, once: NF4 QLoRA on the CPU lowers the held-out loss, and the merged model has the same loss."""

import pytest

from ft_pipeline.job import Job
from ft_pipeline.models import base_model
from ft_pipeline.steps import merged_model
from ft_pipeline.training import adapter
from ft_pipeline_tests.training.subject import Listener, job, make_training_data, settings, support_rows


@pytest.mark.slow
@pytest.mark.long
def test_qlora_trains_and_merges_the_embedded_model(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    base_model.run(Job("base_model", {"model": "embedded"}, {}, base, tmp_path, "cpu", Listener()))
    experiment = settings("qlora", learning_rate=2e-3, max_steps=8, eval_steps=4)
    data = make_training_data(tmp_path, base, support_rows(copies=2), experiment)
    training = job("adapter", tmp_path / "adapter", experiment, {"training_data": data, "base_model": base})
    summary = adapter.run(training)
    assert summary["trainable_params"] == 921_600
    assert summary["best_eval_loss"] < summary["first_eval_loss"] - 0.5
    inputs = {"adapter": training.out, "base_model": base, "training_data": data}
    merged = merged_model.run(job("merged_model", tmp_path / "merged", experiment, inputs))
    assert merged["mode"] == "dequantized" and merged["passed"]
    # Training reads rows end to end, the merge reads them padded: the same up to rounding.
    # In 16 bit, the mean over few answer tokens differs by more than that over the thousands of a test split.
    rounding = 1e-4 if merged["computed_in"] == "float32" else 0.02
    assert merged["adapter_heldout_loss"] == pytest.approx(summary["best_eval_loss"], abs=rounding)
    # Eight steps make a small delta, part of which 16-bit weights round away; a hundred steps differ by 0.001.
    assert merged["candidates"]["dequantized"]["heldout_loss"] == pytest.approx(summary["best_eval_loss"], abs=0.1)
