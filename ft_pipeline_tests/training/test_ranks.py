"""Two processes train as one process does: the same losses and files, and one can finish the training of two."""

import json
import os
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers.accelerate_config import ACCELERATE_CONFIG, NUM_PROCESSES
from ft_pipeline.execution.workers.launchers import AccelerateLauncher
from ft_pipeline.execution.workers.supervisor import WorkerError, WorkerJob, run_worker
from ft_pipeline.execution.workers.worker import RANK
from ft_pipeline.job import Rank
from ft_pipeline.models.compute_setting import COMPUTE_DTYPE_VARIABLE
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import adapter
from ft_pipeline.training.trainer.checkpoints import checkpoint_step, newest_valid
from ft_pipeline.training.trainer.data_parallel import RankBatches, Ranks
from ft_pipeline_tests.execution.cancelling import Cancelled, cancel_at
from ft_pipeline_tests.training.subject import PAIRS, conversation, job, make_training_data, settings, support_rows

ROOT = Path(__file__).parents[2]
SETTINGS = settings(
    "lora",
    per_device_train_batch_size=3,
    gradient_accumulation_steps=2,
    num_train_epochs=2,
    eval_steps=2,
    optim="adamw_torch",
)
"""With 25 rows, the last batch of an epoch has one row, so that the second rank gets none."""


@pytest.fixture(scope="module", autouse=True)
def _exact_products():
    """In bf16, products may depend on the shape of a batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(COMPUTE_DTYPE_VARIABLE, "float32")
        yield


@pytest.fixture(scope="module")
def data(_exact_products, tmp_path_factory, tiny_base):
    rows = [*support_rows(), conversation(8000, [PAIRS[0]], "train")]
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, rows, SETTINGS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data, tiny_base):
    work = job("adapter", tmp_path_factory.mktemp("alone"), SETTINGS, {"training_data": data, "base_model": tiny_base})
    return work.out, adapter.run(work)


@pytest.fixture(autouse=True)
def _workers_find_the_package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def losses(out: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def worker_job(folder: Path, data: Path, base: Path) -> WorkerJob:
    training = job("adapter", folder, SETTINGS, {"training_data": data, "base_model": base})
    return WorkerJob("adapter", "adapter", training.config, training.inputs, folder, training.out, training.work)


def kill_rank_1_at(step: int):
    """A progress listener that kills the second rank of the training that this process started."""

    def on_progress(progress):
        if progress.step >= step:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it has ended
                    if json.loads(process.environ().get(RANK, "{}")).get("number") == 1:
                        process.kill()

    return on_progress


def assert_same_training(out: Path, alone: Path) -> None:
    for name in ("loss", "eval_loss"):
        assert losses(out, name) == pytest.approx(losses(alone, name), rel=1e-3), name
    assert losses(out, "grad_norm") == pytest.approx(losses(alone, "grad_norm"), rel=1e-3)
    assert len(losses(out, "loss")) == 10
    found, expected_values = (json.loads((folder / "held_out.json").read_text()) for folder in (out, alone))
    assert found["items"] == expected_values["items"]
    for when in ("first", "best"):
        sums, by_one = (document["measures"]["eval_loss"][when] for document in (found, expected_values))
        assert sums == pytest.approx(by_one, rel=1e-3), when
    tensors, expected = (load_file(folder / "adapter_model.safetensors") for folder in (out, alone))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_train_the_same_steps_as_one(alone, data, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv(NUM_PROCESSES, "2")
    work = worker_job(tmp_path, data, tiny_base)
    lines, steps = [], []
    result = run_worker(None, work, AccelerateLauncher(), lambda progress: steps.append(progress.step), lines.append)
    assert_same_training(work.out, alone[0])
    assert any("2 processes (DDP)" in line for line in lines)
    assert sum("held-out loss" in line for line in lines) == 6  # only one rank logs
    assert steps == sorted(set(steps)) and steps[-1] == 10
    assert result.summary["best_step"] == alone[1]["best_step"]
    names = {path.name for path in (work.work / "checkpoints").rglob("*")}
    assert {"random.json", "random-1.json"} <= names


@pytest.mark.slow
@pytest.mark.long
def test_sharded_weights_survive_a_killed_rank_and_are_saved_complete(alone, data, tiny_base, tmp_path, monkeypatch):
    config = tmp_path / "fsdp.yaml"
    fsdp = {"fsdp_version": 2, "fsdp_reshard_after_forward": True}
    config.write_text(yaml.safe_dump({"distributed_type": "FSDP", "num_processes": 2, "fsdp_config": fsdp}))
    monkeypatch.setenv(ACCELERATE_CONFIG, str(config))
    work = worker_job(tmp_path, data, tiny_base)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        run_worker(None, work, AccelerateLauncher(), kill_rank_1_at(5))
    assert set(psutil.Process().children(recursive=True)) <= before
    kept = checkpoint_step(newest_valid(work.work / "checkpoints"))
    assert kept in (4, 6, 8, 10)  # reports come once a second at most, and ten steps may take less
    assert not list(work.out.iterdir())
    result = run_worker(None, work, AccelerateLauncher())
    assert result.summary["resumed_from_step"] == kept
    assert_same_training(work.out, alone[0])


@pytest.mark.long
def test_one_process_can_finish_the_canceled_training_of_two(alone, data, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv(NUM_PROCESSES, "2")
    work = worker_job(tmp_path, data, tiny_base)
    with pytest.raises(Cancelled):
        run_worker(None, work, AccelerateLauncher(), cancel_at(3))
    kept = checkpoint_step(newest_valid(work.work / "checkpoints"))
    assert kept >= 3  # the current step, also between evaluations
    summary = adapter.run(job("adapter", tmp_path, SETTINGS, dict(work.inputs)))
    assert summary["resumed_from_step"] == kept
    assert_same_training(work.out, alone[0])


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_shipped_config_files(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == 2
    expected = {"fsdp": ("FSDP", config.fsdp_config), "deepspeed": ("DEEPSPEED", config.deepspeed_config)}
    kind, section = expected[path.stem]
    assert config.distributed_type == kind and section


def test_the_ranks_read_every_row_of_every_batch_once():
    batches = [list(range(begin, min(begin + 4, 25))) for begin in range(0, 25, 4)]
    shares = [list(RankBatches(batches, Ranks(Rank(number, 3)))) for number in range(3)]
    assert [len(share) for share in shares] == [7, 7, 7]
    assert [sorted(row for part in batch for row in part) for batch in zip(*shares, strict=True)] == batches
    assert shares[1][-1] == [] and len(RankBatches(batches, Ranks())) == 7


def test_an_item_that_fills_up_a_rank_counts_once():
    shares = [list(Ranks(Rank(number, 2)).share("abcde")) for number in range(2)]
    assert shares[0] == [("a", True), ("c", True), ("e", True)]
    assert shares[1] == [("b", True), ("d", True), ("a", False)]


def test_a_dora_on_4_bit_weights_is_refused_with_fsdp():
    document = {"technique": "qlora", "lora": {"use_dora": True}, "training": {"optim": "adamw_torch"}}
    wanted = ExperimentSettings.model_validate(document)
    with pytest.raises(UserError, match="use_dora is not supported with FSDP and 4-bit weights"):
        adapter.require_shardable(wanted, Rank(0, 2, sharded=True))
    adapter.require_shardable(wanted, Rank(0, 2))


@pytest.mark.parametrize(
    ("technique", "optim", "message"),
    [
        ("prompt_tuning", "adamw_torch", "technique 'prompt_tuning' is not supported with FSDP. Set `technique: lora`"),
        ("lora", "adamw_8bit", "training.optim 'adamw_8bit' is not supported with FSDP. Set `optim: adamw_torch`"),
    ],
)
def test_settings_that_fsdp_does_not_support_are_refused(technique, optim, message):
    with pytest.raises(UserError, match=message):
        adapter.require_shardable(settings(technique, optim=optim), Rank(0, 2, sharded=True))
    adapter.require_shardable(settings(technique, optim=optim), Rank(0, 2))
