"""Adapters keep 32-bit weights, so that even the smallest updates change them."""

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import adapter
from ft_pipeline.training.techniques import new_model
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.trainer.arguments import TokenTrainingArguments
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.checkpoint_state import load_tree
from ft_pipeline.training.trainer.loss import answer_loss
from ft_pipeline.training.trainer.token_trainer import OPTIMIZER, TokenTrainer
from ft_pipeline_tests.training.subject import job, make_training_data, support_rows

STEPS = 6
KINDS = {
    "plain": {},
    "rslora": {"r": 16, "use_rslora": True},
    "dora": {"r": 4, "use_dora": True},
    "patterns": {"r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
}


def experiment(technique="lora", lora=None, **training):
    """An experiment with a learning rate at which 16-bit weights would hardly change."""
    keys = {"learning_rate": 2e-5, "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "max_steps": STEPS}
    keys |= {"per_device_train_batch_size": 4, "eval_steps": STEPS, **training}
    return ExperimentSettings.model_validate({"technique": technique, "lora": lora or {}, "training": keys})


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), experiment())


@pytest.fixture
def trained(tmp_path, data, tiny_base):
    """The weights of an adapter before and after the steps, by name, and the checkpoint."""

    def train(name, settings):
        work = job("adapter", tmp_path / name, settings, {"training_data": data, "base_model": tiny_base})
        adapter.run(work)
        before = get_peft_model_state_dict(new_model(tiny_base, settings, "cpu"))
        checkpoint = work.work / "checkpoints" / f"checkpoint-{STEPS}"
        after = load_file(checkpoint / "adapter_model.safetensors")
        assert before.keys() == after.keys()
        return before, after, checkpoint

    return train


@pytest.mark.parametrize(
    ("technique", "kind"),
    [
        ("lora", "plain"),
        ("qlora", "dora"),
        *(pytest.param("lora", kind, marks=pytest.mark.long) for kind in ("dora", "rslora", "patterns")),
    ],
)
def test_every_adapter_weight_changes(technique, kind, trained):
    before, after, checkpoint = trained(kind, experiment(technique, KINDS[kind], optim="adamw_torch"))
    assert any("magnitude" in name for name in after) == (kind == "dora")
    for name, weight in after.items():
        assert weight.dtype == before[name].dtype == torch.float32
        moved = float((weight != before[name]).float().mean())
        assert moved > 0.99, f"{name}: {moved:.1%} moved"  # one in a thousand may return to its first value
    states = load_tree(checkpoint, OPTIMIZER)["optimizer"]["state"].values()
    assert {state[key].dtype for state in states for key in ("exp_avg", "exp_avg_sq")} == {torch.float32}


def test_weight_decay_shrinks_an_adapter(trained):
    """By (1 - 0.001 · 0.2) per step: a fiftieth of the smallest change of a 16-bit weight of that size."""
    rate = {"learning_rate": 1e-3}
    _, undecayed, _ = trained("without", experiment(**rate, weight_decay=0.0))
    _, decayed, _ = trained("decayed", experiment(**rate, weight_decay=0.2))
    matrices = [name for name in undecayed if "lora_A" in name]
    assert all((undecayed[name] != decayed[name]).all() for name in matrices)
    shares = [float(decayed[name].norm() / undecayed[name].norm()) for name in matrices]
    assert shares == pytest.approx([(1 - 2e-4) ** STEPS] * len(matrices), abs=3e-4)


@pytest.mark.parametrize("technique", ["lora", "qlora"])
def test_a_new_dora_adapter_gives_the_loss_of_its_base(technique, tiny_base, data):
    """With PEFT's 16-bit magnitudes it would differ from the base by up to 0.4 %."""
    settings = experiment(technique, {"use_dora": True})
    model = new_model(tiny_base, settings, "cpu")
    quantization = settings.quantization.model_dump() if technique == "qlora" else None
    batch = collate(read_split(data, "validation"), 0)
    with torch.no_grad():
        (dora_loss, count), (base_loss, _) = (
            answer_loss(scored_model, batch)
            for scored_model in (model.eval(), load_model(tiny_base, "cpu", quantization=quantization))
        )
    assert float(dora_loss) / count == pytest.approx(float(base_loss) / count, abs=2e-3)
    for module in model.modules():
        for magnitude in (getattr(module, "lora_magnitude_vector", None) or {}).values():
            assert magnitude.weight.dtype == torch.float32


@pytest.mark.parametrize("technique", ["lora", "qlora"])
def test_creating_a_trainer_does_not_change_the_adapter_weights(technique, tmp_path, tiny_base, data):
    """TRL's own trainer rounds the matrices of an adapter on a quantized model to bf16."""
    model = new_model(tiny_base, experiment(technique), "cpu")
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.normal_()
    before = {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}
    rows = read_split(data, "validation")
    arguments = TokenTrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    TokenTrainer(model, load_tokenizer(tiny_base), rows, rows, arguments)
    after = get_peft_model_state_dict(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
