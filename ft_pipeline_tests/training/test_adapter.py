"""Training a tiny adapter: it learns, is repeatable, resumes after a kill, and raises clear errors."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ft_pipeline.errors import UserError
from ft_pipeline.training import adapter
from ft_pipeline.training.trainer.checkpoints import checkpoint_step, newest_valid
from ft_pipeline_tests.training.subject import Listener, job, make_training_data, settings, support_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), settings())


def train(folder, data, base, experiment):
    work = job("adapter", folder, experiment, {"training_data": data, "base_model": base})
    return work, adapter.run(work)


def hashes(work):
    names = ("adapter_model.safetensors", "adapter_config.json", "held_out.json")
    return {name: hashlib.sha256((work.out / name).read_bytes()).hexdigest() for name in names}


def losses(work):
    lines = [json.loads(line) for line in (work.out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss"), line.get("eval_loss")) for line in lines if "train_runtime" not in line]


SHORT = {"num_train_epochs": 2}
"""12 steps, evaluated after every third one."""


@pytest.fixture(scope="module", params=["lora", pytest.param("qlora", marks=pytest.mark.long)])
def trained(request, tmp_path_factory, data, tiny_base):
    experiment = settings(request.param, **SHORT)
    return (request.param, *train(tmp_path_factory.mktemp(request.param), data, tiny_base, experiment))


def test_training_lowers_the_loss_and_reports_every_step(trained):
    _, work, summary = trained
    assert summary["steps"] == 12
    assert summary["best_eval_loss"] < summary["first_eval_loss"]
    assert summary["resumed_from_step"] == 0 and not summary["stopped_early"]
    assert 0 < summary["trainable_params"] < summary["total_params"]
    assert summary["trainable_params"] == 2 * 8 * ((64 + 64) + 2 * (64 + 32) + (64 + 64))
    steps = [(step, total) for step, total, _ in work.report.steps]
    assert steps == [(number, 12) for number in range(1, 13)]
    assert {"loss", "eval_loss", "tokens_per_second", "eta_seconds", "memory_gb"} <= set(work.report.steps[-1][2])
    assert [step for step, _, held_out in losses(work) if held_out is not None] == [0, 3, 6, 9, 12]


def test_the_adapter_config_names_its_base_model_without_a_local_path(trained):
    _, work, _ = trained
    config = json.loads((work.out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base_model:base"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert {tensor.dtype for tensor in load_file(work.out / "adapter_model.safetensors").values()} == {torch.float32}


@pytest.mark.long
@pytest.mark.long
def test_the_same_spec_gives_the_same_adapter(trained, tmp_path, data, tiny_base):
    technique, first, _ = trained
    second, _ = train(tmp_path, data, tiny_base, settings(technique, **SHORT))
    assert hashes(second) == hashes(first)
    assert losses(second) == losses(first)


PINNED = {
    "lora": [7.264, 7.136, 7.156, 7.246, 7.375, 7.046, 7.122, 6.824],
    "qlora": [7.175, 7.157, 7.159, 7.326, 7.459, 7.042, 6.963, 6.650],
    "full": [7.259, 7.140, 5.820, 5.613, 4.861, 4.130, 4.190, 3.415],
}
"""Training losses in nats per trained token. Row order, masks, learning rate and optimizer determine them."""


@pytest.mark.parametrize("technique", PINNED)
def test_a_short_run_gives_the_pinned_losses(tmp_path, data, tiny_base, technique):
    work, _ = train(tmp_path, data, tiny_base, settings(technique, max_steps=8))
    train_losses = [loss for _, loss, _ in losses(work) if loss is not None]
    assert train_losses == pytest.approx(PINNED[technique], abs=0.03)  # processors differ by 0.01 in 16 bit


def test_a_device_without_native_bf16_trains_in_fp16_with_fp32_adapters(tmp_path, tiny_base, monkeypatch):
    """Simulates a T4, whose driver reports that bf16 is emulated."""
    from ft_pipeline.models import load
    from ft_pipeline.training import techniques
    from ft_pipeline.training.trainer.arguments import training_arguments

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert load.compute_dtype("cuda:0") == torch.float16
    monkeypatch.setattr(load, "compute_dtype", lambda device: torch.float16)
    for technique in ("lora", "qlora"):
        model = techniques.new_model(tiny_base, settings(technique), "cpu")
        trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
        assert trained == {torch.float32} and model.get_input_embeddings().weight.dtype == torch.float16
    arguments = training_arguments(settings().training, tmp_path, "cpu", torch.float16)
    assert arguments.fp16 and not arguments.bf16


def test_the_adapter_is_the_best_checkpoint(trained):
    _, work, summary = trained
    best = work.work / "checkpoints" / f"checkpoint-{summary['best_step']}"
    assert (best / "adapter_model.safetensors").read_bytes() == (work.out / "adapter_model.safetensors").read_bytes()
    held_out = {step: loss for step, _, loss in losses(work) if loss is not None and step > 0}
    assert held_out[summary["best_step"]] == min(held_out.values()) == summary["best_eval_loss"]


class Killer(Listener):
    """A listener that kills its process."""

    def progress(self, step, total, **values):
        if step == 10:
            os.kill(os.getpid(), signal.SIGKILL)


def train_in_a_fork(work):
    torch.set_num_threads(1)  # the threads of the parent are not in its fork
    adapter.run(work)


@pytest.mark.parametrize("trained", ["lora", pytest.param("qlora", marks=pytest.mark.long)], indirect=True)
def test_a_killed_run_resumes_and_gives_the_same_adapter(trained, tmp_path, data, tiny_base):
    """After SIGKILL it resumes from the last evaluation."""
    technique, uninterrupted, _ = trained
    inputs = {"training_data": data, "base_model": tiny_base}
    work = job("adapter", tmp_path, settings(technique, **SHORT), inputs)
    doomed = replace(work, report=Killer())
    process = multiprocessing.get_context("fork").Process(target=train_in_a_fork, args=(doomed,))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    require_resumed(work, 9, uninterrupted)


class Interrupter(Listener):
    """A listener that interrupts the training of this process once, as Ctrl-C does."""

    def progress(self, step, total, **values):
        super().progress(step, total, **values)
        if step == 10:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.long
def test_an_interrupted_run_saves_its_step_and_gives_the_same_adapter(trained, tmp_path, data, tiny_base):
    technique, uninterrupted, _ = trained
    inputs = {"training_data": data, "base_model": tiny_base}
    work = job("adapter", tmp_path, settings(technique, **SHORT), inputs, Interrupter())
    with pytest.raises(KeyboardInterrupt):
        adapter.run(work)
    require_resumed(work, 11, uninterrupted)


def require_resumed(work, saved_step, uninterrupted):
    assert checkpoint_step(newest_valid(work.work / "checkpoints")) == saved_step
    summary = adapter.run(work)
    assert summary["resumed_from_step"] == saved_step
    assert hashes(work) == hashes(uninterrupted)
    assert losses(work) == losses(uninterrupted)


def test_a_damaged_checkpoint_is_skipped(trained, tmp_path):
    root = shutil.copytree(trained[1].work / "checkpoints", tmp_path / "checkpoints")
    newest = newest_valid(root)
    (newest / "optimizer.safetensors").write_bytes(b"cut off")
    assert checkpoint_step(newest_valid(root)) < checkpoint_step(newest)
    (newest_valid(root) / "complete.json").unlink()
    assert newest_valid(root) is None


def test_checkpoints_contain_no_pickle(trained):
    _, work, _ = trained
    names = {path.name for path in (work.work / "checkpoints").rglob("*") if path.is_file()}
    assert {"optimizer.safetensors", "random.json", "adapter_model.safetensors"} <= names
    assert not any(name.endswith((".pt", ".pth", ".bin", ".pkl")) for name in names)


def test_a_run_killed_after_its_last_checkpoint_only_saves_the_adapter(trained, data, tiny_base):
    _, finished, _ = trained
    before = hashes(finished)
    summary = adapter.run(finished)
    assert summary["resumed_from_step"] == summary["steps"] == 12
    assert hashes(finished) == before


def test_a_nan_loss_raises_a_clear_error(tmp_path, data, tiny_base):
    from ft_pipeline.models.load import load_model

    base = tmp_path / "base"
    model = load_model(tiny_base, "cpu")
    model.model.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    model.save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (base / name).write_bytes((tiny_base / name).read_bytes())
    with pytest.raises(UserError, match=r"loss became nan at step .*learning_rate"):
        train(tmp_path / "run", data, base, settings())


def test_a_failed_token_audit_stops_training(tmp_path, tiny_base):
    data = make_training_data(tmp_path, tiny_base, support_rows(), settings(max_length=20))
    with pytest.raises(UserError, match="no_over_length"):
        train(tmp_path / "run", data, tiny_base, settings())


def test_gradient_accumulation_equals_a_larger_batch(tmp_path, data, tiny_base, monkeypatch):
    """1 × 8 rows and 2 × 4 rows give the same gradient, because the loss is divided by the tokens of the whole step."""
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")  # on CPUs with AMX, a product in bf16 depends on the batch
    from ft_pipeline.training.techniques import new_model
    from ft_pipeline.training.token_rows import read_split
    from ft_pipeline.training.trainer.arguments import training_arguments
    from ft_pipeline.training.trainer.token_trainer import TokenTrainer

    gradients = []
    rows = read_split(data, "train")[:8]
    for size, accumulation in ((8, 1), (4, 2), (1, 8)):
        experiment = settings(
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            optim="adamw_torch",
            max_grad_norm=1e9,
        )
        model = new_model(tiny_base, experiment, "cpu").float()
        arguments = training_arguments(experiment.training, tmp_path / f"{size}", "cpu", torch.float32)
        arguments.eval_strategy = "no"
        from ft_pipeline.models.load import load_tokenizer

        trainer = TokenTrainer(model, load_tokenizer(tiny_base), rows, rows, arguments)
        trainer.train()
        norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        gradients.append((losses[0], norms[0]))
    # The longest sums are those over the vocabulary: 512 terms, each rounded to 24 bits.
    assert gradients[1] == pytest.approx(gradients[0], rel=512 * 2**-24)
    assert gradients[2] == pytest.approx(gradients[0], rel=512 * 2**-24)


def test_an_evaluation_keeps_the_gradients_of_a_quantized_base(tiny_base, data):
    """bitsandbytes repacks 4-bit weights in the first forward pass in eval mode; repacked layers have no backward."""
    from ft_pipeline.training.techniques import new_model
    from ft_pipeline.training.token_rows import read_split
    from ft_pipeline.training.trainer.batches import collate
    from ft_pipeline.training.trainer.loss import answer_loss, evaluation_mode

    rows = read_split(data, "validation")
    gradients = []
    for evaluate_first in (False, True):
        model = new_model(tiny_base, settings("qlora"), "cpu").train()
        if evaluate_first:
            with evaluation_mode(model):
                answer_loss(model, collate(rows, 0))
        answer_loss(model, collate(rows, 0))[0].backward()
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"
        gradients.append(dict(model.named_parameters())[name].grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), r"halve per_device_train_batch_size \(now 4\)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "gradient_checkpointing: true"),
        (OSError(28, "No space left on device"), "The disk is full"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"), "The disk is full"),
    ],
)
def test_out_of_memory_and_a_full_disk_raise_a_clear_error(error, message):
    with pytest.raises(UserError, match=message), adapter._as_user_errors(settings()):
        raise error


def test_other_errors_are_raised_unchanged():
    with pytest.raises(RuntimeError, match="something else"), adapter._as_user_errors(settings()):
        raise RuntimeError("something else")
