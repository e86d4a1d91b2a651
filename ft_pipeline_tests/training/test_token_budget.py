"""`tokens_per_batch`: the losses of single rows, the same training after a resume, and settings that it fits."""

import shutil

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import adapter
from ft_pipeline.training.memory.estimate import estimate_experiment
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.trainer.acceleration import speed_up
from ft_pipeline.training.trainer.batches import ROW_BOUNDS, TokenBatches, collate, lengths_of
from ft_pipeline.training.trainer.checkpoints import checkpoint_folder, steps_in
from ft_pipeline.training.trainer.loss import token_losses
from ft_pipeline.training.work import rows_per_batch
from ft_pipeline_tests.training.subject import job, make_training_data, settings, support_rows
from ft_pipeline_tests.training.test_ranks import losses

LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 32_000,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), settings())


def test_the_tokens_of_a_packed_batch_have_the_losses_of_rows_alone(data, tiny_base):
    rows = read_split(data, "train")
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    speed_up(model, settings(padding_free=True).training, "cpu")
    batches = list(TokenBatches(lengths_of(rows, ["input_ids"]), 400, seed=0))
    assert max(map(len, batches)) > 4
    with torch.no_grad():
        alone = [token_losses(model, collate([row], None)) for row in rows]
        for batch in batches:
            packed = collate([rows[index] for index in batch], None)
            assert len(packed["input_ids"]) == 1 and len(packed[ROW_BOUNDS]) == len(batch) + 1
            expected = torch.cat([alone[index] for index in batch])
            torch.testing.assert_close(token_losses(model, packed), expected, rtol=1e-5, atol=1e-5)


def test_a_resumed_training_takes_the_same_batches(data, tiny_base, tmp_path):
    wanted = settings(tokens_per_batch=250, max_length=200, num_train_epochs=2)
    inputs = {"training_data": data, "base_model": tiny_base}
    whole, begun = (job("adapter", tmp_path / name, wanted, inputs) for name in ("whole", "begun"))
    steps = adapter.run(whole)["steps"]
    assert steps % 2 == 0 and steps < 2 * 24, "several rows in a batch"
    shutil.copytree(whole.work, begun.work, dirs_exist_ok=True)
    root = begun.work / "checkpoints"
    shutil.rmtree(checkpoint_folder(root, steps_in(root)[-1]))
    assert 0 < adapter.run(begun)["resumed_from_step"] < steps
    assert losses(begun.out, "loss") == losses(whole.out, "loss")
    weights, expected = (load_file(each.out / "adapter_model.safetensors") for each in (begun, whole))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"training": {"tokens_per_batch": 500}}, r"tokens_per_batch is 500, but a row may have 1024 tokens"),
        ({"training": {"tokens_per_batch": 2048}, "technique": "prompt_tuning"}, "the learned prompt of each row"),
        ({"training": {"tokens_per_batch": 2048}, "objective": "grpo"}, "the answers, which have no length yet"),
    ],
)
def test_a_budget_that_does_not_hold_every_token_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        ExperimentSettings.model_validate({"technique": "lora", **keys})


def test_a_budget_bounds_the_activations_of_long_and_short_rows():
    def activations(longest, **keys):
        document = {"technique": "lora", "training": {"gradient_checkpointing": True, **keys}}
        return estimate_experiment(ExperimentSettings.model_validate(document), LLAMA, longest, None)["bytes"][
            "activations"
        ]

    budget = {"tokens_per_batch": 4096}
    assert activations(1024, **budget) == activations(128, **budget)
    assert activations(1024, **budget) == activations(1024, per_device_train_batch_size=4)
    wanted = ExperimentSettings.model_validate({"technique": "lora", "training": budget})
    assert rows_per_batch(wanted.training, 200.0) == 20


def test_the_advice_lowers_the_budget():
    document = {"technique": "lora", "training": {"tokens_per_batch": 65_536}}
    advice = estimate_experiment(ExperimentSettings.model_validate(document), LLAMA, 1024, 24.0)["advice"]
    assert advice[0].startswith(("set tokens_per_batch: 32768", "set gradient_checkpointing")) and "batch_size" not in (
        " ".join(advice)
    )
