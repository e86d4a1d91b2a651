"""Training in pure bf16: stochastically rounded updates are right on average, and repeat after a resume."""

import shutil

import pytest
import torch
from bitsandbytes.optim import AdamW, GlobalOptimManager
from safetensors.torch import load_file

from ft_pipeline.job import Rank
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import adapter
from ft_pipeline.training.adapter import require_shardable
from ft_pipeline.training.trainer.stochastic_rounding import StochasticAdamW, round_stochastically
from ft_pipeline_tests.training.subject import FAST, job, make_training_data, support_rows


def rounded(values, seed=0):
    out = torch.empty_like(values, dtype=torch.bfloat16)
    round_stochastically(values, out, torch.Generator().manual_seed(seed))
    return out.float()


@pytest.mark.parametrize("value", [1.001, -1.001, 3e-5, -2.6e7])
def test_rounding_goes_to_a_neighbor_and_is_right_on_average(value):
    values = torch.full((200_000,), value)
    results = rounded(values)
    below, above = sorted(results.unique().tolist())
    assert below < value < above
    step = above - below
    assert step <= abs(value) / 128  # neighbors in bf16, not farther
    assert float(results.double().mean()) == pytest.approx(value, abs=0.01 * step)


def test_values_that_bf16_can_represent_are_unchanged():
    values = torch.randn(1000).bfloat16().float()
    values[:3] = torch.tensor([0.0, float("inf"), float("-inf")])
    assert torch.equal(rounded(values), values)


def stepped(kind, steps, **keys):
    """A million bf16 weights of 1 after steps of 0.0001 towards 0: a fortieth of the spacing of bf16 near 1."""
    GlobalOptimManager.get_instance().initialize()  # it remembers the embeddings of earlier trainings by address
    weight = torch.nn.Parameter(torch.ones(1000, 1000, dtype=torch.bfloat16))
    optimizer = kind([weight], lr=1e-4, weight_decay=0.0, optim_bits=8, **keys)
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert len(optimizer.state) == 1 and optimizer.state[weight]["state1"].dtype == torch.uint8
    return weight.detach()


def test_small_updates_are_kept_on_average():
    assert (stepped(AdamW, 10) == 1).all()  # rounding to nearest changes nothing
    assert float(stepped(StochasticAdamW, 10, seed=1).double().mean()) == pytest.approx(1 - 10 * 1e-4, abs=5e-5)


def test_the_random_bits_depend_on_step_and_seed_only():
    first, again, later_step, other_seed = (
        (torch.manual_seed(number), stepped(StochasticAdamW, steps, seed=seed))[1]
        for number, (steps, seed) in enumerate([(1, 1), (1, 1), (2, 1), (1, 2)])
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later_step) and not torch.equal(first, other_seed)


def experiment(**training):
    keys = {**FAST, "learning_rate": 1e-3, "max_steps": 12, **training}
    return ExperimentSettings.model_validate({"technique": "full", "training": keys})


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), experiment())


def trained(folder, data, base, **training):
    work = job("adapter", folder, experiment(**training), {"training_data": data, "base_model": base})
    return work, adapter.run(work)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_pure_bf16_learns_as_in_32_bit_and_resumes_exactly(tmp_path, data, tiny_base):
    _, exact = trained(tmp_path / "exact", data, tiny_base)
    work, summary = trained(tmp_path / "pure", data, tiny_base, pure_bf16=True)
    assert summary["computed_in"] == "bfloat16"
    assert summary["best_eval_loss"] < summary["first_eval_loss"] - 0.05
    assert summary["best_eval_loss"] == pytest.approx(exact["best_eval_loss"], abs=0.02)
    checkpoints = sorted((work.work / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert {tensor.dtype for tensor in weights(checkpoints[-1]).values()} == {torch.bfloat16}
    before = weights(work.out)
    shutil.rmtree(checkpoints[-1])
    shutil.rmtree(work.out)
    work.out.mkdir()
    assert adapter.run(work)["resumed_from_step"] == int(checkpoints[-2].name[11:]) > 0
    after = weights(work.out)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_pure_bf16_is_refused_with_fsdp():
    with pytest.raises(adapter.UserError, match="pure_bf16 is not supported with FSDP"):
        require_shardable(experiment(pure_bf16=True), Rank(0, 2, sharded=True))
