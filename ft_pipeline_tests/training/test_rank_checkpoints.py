"""Checkpoints of ranks with sharded weights: any number of ranks reads what any other number wrote."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ft_pipeline.models.compute_setting import COMPUTE_DTYPE_VARIABLE
from ft_pipeline.models.stored_tensors import StoredTensor, load_into
from ft_pipeline.training import adapter
from ft_pipeline.training.techniques import load_weights, new_model, new_sharded_model, save_sharded_weights
from ft_pipeline.training.trainer.checkpoint_state import load_tree, open_tree, save_tree
from ft_pipeline.training.trainer.checkpoints import checkpoint_folder, newest_valid, steps_in
from ft_pipeline.training.trainer.data_parallel import read_optimizer_state
from ft_pipeline_tests.training.rank_runs import only_rank, run_ranks, summary_of
from ft_pipeline_tests.training.subject import PAIRS, conversation, job, make_training_data, settings, support_rows
from ft_pipeline_tests.training.test_ranks import losses

VALUES = torch.arange(35.0).reshape(7, 5)


def sharded_matrix(count: int) -> torch.Tensor:
    """A parameter of 7 rows that this rank shares with others."""
    module = torch.nn.Linear(5, 7, bias=False)
    with torch.no_grad():
        module.weight.copy_(VALUES)
    fully_shard(module, mesh=init_device_mesh("cpu", (count,)))
    return module.weight


@pytest.fixture
def written_by_three(tmp_path):
    """A checkpoint of an optimizer whose state three ranks share. The last rank has one row, the others three."""
    for number in range(3):
        with only_rank(number, 3):
            average = sharded_matrix(3).detach() * 2
            state = {"state": {0: {"step": torch.tensor(4.0), "average": average}}, "param_groups": [{"params": [0]}]}
            save_tree(tmp_path, "optimizer", state, number)
    return tmp_path


def test_one_process_reads_the_whole_tensors_of_three_ranks(written_by_three):
    state = load_tree(written_by_three, "optimizer")["state"][0]
    assert torch.equal(state["average"], VALUES * 2) and float(state["step"]) == 4
    stored = open_tree(written_by_three, "optimizer")["state"][0]["average"]
    assert stored.shape == VALUES.shape
    assert torch.equal(stored.rows(2, 5), VALUES[2:5] * 2)
    assert not [path for path in written_by_three.iterdir() if path.suffix not in (".json", ".safetensors")]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_another_number_of_ranks_reads_its_own_rows_of_it(count, written_by_three):
    parts = []
    for number in range(count):
        with only_rank(number, count):
            weight = sharded_matrix(count)
            state = read_optimizer_state(open_tree(written_by_three, "optimizer"), [weight])["state"][0]
            assert state["average"].placements == weight.placements and state["average"].shape == weight.shape
            parts.append(state["average"].to_local())
    assert torch.equal(torch.cat(parts), VALUES * 2)


def test_a_tensor_of_another_shape_is_not_loaded(written_by_three):
    stored = open_tree(written_by_three, "optimizer")["state"][0]["average"]
    with pytest.raises(ValueError, match=r"has the shape \[7, 5\], not \[5\]"):
        load_into(torch.zeros(5), stored)
    assert isinstance(stored, StoredTensor)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("writers", [1, 2])
def test_trained_weights_are_read_by_any_number_of_ranks(writers, count, tiny_base, tmp_path):
    wanted = settings("full")
    trained = changed(new_model(tiny_base, wanted, "cpu"))
    if writers == 1:
        trained.save_pretrained(tmp_path, save_original_format=False)
    for number in range(writers if writers > 1 else 0):
        with only_rank(number, writers) as ranks:
            save_sharded_weights(changed(new_sharded_model(tiny_base, wanted, "cpu", ranks)), tmp_path, ranks)
    expected = dict(trained.named_parameters())
    assert rows_that_ranks_load(tiny_base, wanted, tmp_path, count) == {
        name: tensor.tolist() for name, tensor in expected.items()
    }


@pytest.mark.parametrize("count", [2, 3])
def test_an_adapter_is_read_by_ranks_with_shards(count, tiny_base, tmp_path):
    wanted = settings("lora")
    trained = changed(new_model(tiny_base, wanted, "cpu"))
    trained.save_pretrained(tmp_path)
    loaded = rows_that_ranks_load(tiny_base, wanted, tmp_path, count)
    for name, tensor in trained.named_parameters():
        if tensor.requires_grad:
            assert loaded[name] == tensor.tolist()


def changed(model):
    """A model whose trained weights are not those of a new one."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                (weight.to_local() if isinstance(weight, DTensor) else weight).add_(0.25)
    return model


def rows_that_ranks_load(base, wanted, folder, count):
    """The weights of `count` ranks that loaded a checkpoint, put together."""
    if count == 1:
        model = new_model(base, wanted, "cpu")
        load_weights(model, folder)
        return {name: weight.tolist() for name, weight in model.named_parameters()}
    together = {}
    for number in range(count):
        with only_rank(number, count) as ranks:
            model = new_sharded_model(base, wanted, "cpu", ranks)
            load_weights(model, folder)
            for name, weight in model.named_parameters():
                together.setdefault(name, []).extend(weight.to_local().tolist())
    return together


# --- trainings that others finish ----------------------------------------------------------------------------------

TECHNIQUES = ("lora", "full")
WRITERS = ("one process", "two with FSDP2")
FINISHERS = {
    "one process": {"count": 1},
    "two with DDP": {"count": 2},
    "two with FSDP2": {"count": 2, "sharded": True},
    "three with FSDP2": {"count": 3, "sharded": True},
}


@pytest.fixture(scope="module")
def begun(tiny_base, tmp_path_factory):
    """A function that returns a job whose training others began, the whole trainings of one process, and a folder."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(COMPUTE_DTYPE_VARIABLE, "float32")
        keys = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
        wanted = {name: settings(name, **keys, eval_steps=2, optim="adamw_torch") for name in TECHNIQUES}
        rows = [*support_rows(), conversation(8000, [PAIRS[0]], "train")]
        data = make_training_data(folder / "data", tiny_base, rows, wanted["lora"])
        inputs = {"training_data": data, "base_model": tiny_base}

        def new_job(technique, name):
            return job("adapter", folder / technique / name, wanted[technique], inputs)

        whole = {(technique, writer): new_job(technique, writer) for technique in TECHNIQUES for writer in WRITERS}
        for technique in TECHNIQUES:
            adapter.run(whole[technique, "one process"])
        sharded = {technique: whole[technique, "two with FSDP2"] for technique in TECHNIQUES}
        run_ranks(sharded, folder / "writers", sharded=True)

        def begin(technique, writer, name):
            work = new_job(technique, name)
            shutil.copytree(whole[technique, writer].work, work.work, dirs_exist_ok=True)
            root = work.work / "checkpoints"
            shutil.rmtree(checkpoint_folder(root, steps_in(root)[-1]))
            return work

        yield begin, whole, folder


@pytest.fixture(scope="module", params=FINISHERS)
def finished(request, begun):
    """What ranks finished that others had begun: the job and its summary, by technique and writer."""
    begin, _, folder = begun
    ranks, together = FINISHERS[request.param], folder / request.param
    jobs = {
        f"{technique}-{writer}": begin(technique, writer, f"{writer}-{request.param}")
        for technique in TECHNIQUES
        for writer in WRITERS
    }
    for name, work in jobs.items():
        kept = newest_valid(work.work / "checkpoints")
        assert any("shard" in path.name for path in kept.iterdir()) == name.endswith("FSDP2")
    if ranks["count"] == 1:
        return {name: (work, adapter.run(work)) for name, work in jobs.items()}
    run_ranks(jobs, together, **ranks)
    return {name: (work, summary_of(together, name)) for name, work in jobs.items()}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_others_finish_the_training(technique, writer, finished, begun):
    work, summary = finished[f"{technique}-{writer}"]
    alone = begun[1][technique, "one process"]
    assert 0 < summary["resumed_from_step"] < summary["steps"] == 10
    for value in ("loss", "eval_loss", "grad_norm"):
        assert losses(work.out, value) == pytest.approx(losses(alone.out, value), rel=1e-3)
    weights, expected = (load_file(next(out.glob("*model.safetensors"))) for out in (work.out, alone.out))
    assert weights.keys() == expected.keys()
    for key, tensor in expected.items():
        assert weights[key].dtype == tensor.dtype
        torch.testing.assert_close(weights[key], tensor, rtol=2e-2, atol=2e-3)
    assert {path.name for path in work.out.iterdir()} == {path.name for path in alone.out.iterdir()}
    if (config := work.out / "adapter_config.json").exists():
        assert json.loads(config.read_text()) == json.loads((alone.out / config.name).read_text())
