"""Weights that are sharded as they are read: the same weights, and never all of them in one process."""

import pytest
import torch
from torch.distributed.tensor import DTensor

from ft_pipeline.models.lazy_weights import LazyWeights
from ft_pipeline.models.load import load_model
from ft_pipeline.models.model_structure import decoder_layers
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.techniques import new_model, new_sharded_model
from ft_pipeline_tests.training.architectures import tiny_model_of
from ft_pipeline_tests.training.rank_runs import only_rank

EXPERIMENTS = {
    "lora": {"technique": "lora", "lora": {"target_modules": ["q_proj", "down_proj"]}},
    "dora": {"technique": "lora", "lora": {"target_modules": ["q_proj"], "use_dora": True}},
    "qlora": {"technique": "qlora", "lora": {"target_modules": ["q_proj", "down_proj"]}},
    "full": {"technique": "full"},
}


def held_bytes(model) -> int:
    """The memory of the weights in this process."""
    local = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in model.parameters()]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in local}.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3_text", "gpt2", "opt", "mixtral"])
def test_weights_that_are_read_by_module_are_those_of_the_whole_model(kind, dtype, tmp_path):
    base = tiny_model_of(kind, tmp_path / kind)
    expected = load_model(base, "cpu", dtype=dtype)
    weights = LazyWeights()
    model = weights.load_model(base, "cpu", dtype=dtype)
    if kind != "mixtral":  # its experts are converted, so they are read at once
        assert held_bytes(model) < held_bytes(expected) / 100
        layer = decoder_layers(model)[0]
        weights.fill(layer)
        assert held_bytes(layer) > held_bytes(model) / 2
    weights.fill(model)
    for values in ("named_parameters", "named_buffers"):
        tensors, wanted = (dict(getattr(each, values)()) for each in (model, expected))
        assert list(tensors) == list(wanted)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in wanted.items())
        assert all(tensors[name].dtype == tensor.dtype for name, tensor in wanted.items())
    tied = [each.get_output_embeddings().weight is each.get_input_embeddings().weight for each in (model, expected)]
    assert tied[0] == tied[1]


@pytest.mark.parametrize(("name", "continues"), [*[(name, False) for name in EXPERIMENTS], ("dora", True)])
def test_each_rank_holds_its_rows_of_every_weight(name, continues, tiny_base, tmp_path):
    settings = ExperimentSettings.model_validate(EXPERIMENTS[name])
    start = _changed_adapter(tiny_base, settings, tmp_path) if continues else None
    expected = dict(new_model(tiny_base, settings, "cpu", start).named_parameters())
    parts = []
    for number in range(2):
        with only_rank(number) as ranks:
            model = new_sharded_model(tiny_base, settings, "cpu", ranks, start)
            parameters = dict(model.named_parameters())
            assert all(isinstance(parameter, DTensor) for parameter in parameters.values())
            assert {key for key, parameter in parameters.items() if parameter.requires_grad} == {
                key for key, parameter in expected.items() if parameter.requires_grad
            }
            parts.append({key: parameter.to_local().detach() for key, parameter in parameters.items()})
    sizes = [sum(tensor.numel() for tensor in part.values()) for part in parts]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    for key, parameter in expected.items():
        together = torch.cat([part[key] for part in parts])
        assert together.dtype == parameter.dtype and torch.equal(together, parameter), key


@pytest.mark.parametrize("name", [pytest.param("lora", marks=pytest.mark.long), "qlora", "full"])
def test_no_rank_ever_holds_much_more_than_its_share(name, tmp_path, monkeypatch):
    base = tiny_model_of("llama", tmp_path / "base", num_hidden_layers=16)
    settings = ExperimentSettings.model_validate(EXPERIMENTS[name])
    whole = held_bytes(new_model(base, settings, "cpu"))
    held, models, fill, load = [], [], LazyWeights.fill, LazyWeights.load_model

    def recorded_load(self, *arguments, **options):
        models.append(load(self, *arguments, **options))
        return models[-1]

    def recorded_fill(self, module):
        fill(self, module)
        held.append(held_bytes(models[0]))

    monkeypatch.setattr(LazyWeights, "load_model", recorded_load)
    monkeypatch.setattr(LazyWeights, "fill", recorded_fill)
    with only_rank(0) as ranks:
        model = new_sharded_model(base, settings, "cpu", ranks)
        share = held_bytes(model)
    assert len(held) == 17, "16 layers and what is outside them"
    assert share == pytest.approx(whole / 2, rel=0.05)
    assert max(held) < 0.7 * whole and held[0] < 0.4 * whole


def _changed_adapter(base, settings, folder):
    """An adapter with other weights than a new one has."""
    model = new_model(base, settings, "cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    model.save_pretrained(folder)
    return folder
