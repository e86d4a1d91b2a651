"""TRL's SFTTrainer on rows that are already tokens: our loss, our batches, checkpoints that can be trusted."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from trl import SFTConfig, SFTTrainer

from ft_pipeline.errors import UserError
from ft_pipeline.experiments import TrainingSettings
from ft_pipeline.job import Reporter
from ft_pipeline.models.load import compute_dtype
from ft_pipeline.training.batches import LengthGroupedSampler, batches_by_length, collate
from ft_pipeline.training.checkpoints import newest_valid, seal, step_of
from ft_pipeline.training.loss import answer_loss
from ft_pipeline.training.state import load_tree, random_state, save_tree, set_random_state
from ft_pipeline.training.stopping import Stopping
from ft_pipeline.training.techniques import load_weights
from ft_pipeline.training.usage import memory_gb

OPTIMIZER, RANDOM, SCALER = "optimizer", "random", "scaler"
"""Of a checkpoint, beside the weights: each a .json and a .safetensors."""
Rows = Sequence[dict[str, Any]]
"""{"input_ids": list of int, "labels": list of int} each."""


class AnswerTrainer(SFTTrainer):
    """Loss on answers alone, normalised by the trained tokens of the whole optimizer step."""

    loss_is_scaled_for_ga = True
    """`compute_loss` divides by the tokens of all accumulated batches; the Trainer must not divide again."""
    columns: tuple[str, ...] = ("input_ids", "labels")
    """Of a row, what a batch is made of."""
    lengths_of: tuple[str, ...] = ("input_ids",)
    """The columns whose lengths decide which rows share a batch."""
    collate = staticmethod(collate)
    control: TrainerControl

    def __init__(self, model: Any, tokenizer: Any, train: Rows, validation: Rows, args: SFTConfig) -> None:
        self._validation = validation
        self._pad = tokenizer.pad_token_id
        self.meter = _Meter()
        columns = {key: [row[key] for row in train] for key in self.columns}
        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_dict(columns),
            eval_dataset=Dataset.from_dict({key: [row[key] for row in validation[:1]] for key in columns}),
            processing_class=tokenizer,
            data_collator=partial(self.collate, pad_token_id=self._pad),
        )
        self.remove_callback(PrinterCallback)
        # Makes the Trainer count the trained tokens of an optimizer step and hand the number to compute_loss.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        with computing_in_16_bit(model):
            total, count = answer_loss(model, inputs)
        self.meter.tokens += int(inputs["attention_mask"].sum())
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.meter:
            return super().training_step(*args, **kwargs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The held-out metrics, logged; `eval_loss` chooses the best checkpoint."""
        metrics = self.held_out()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def held_out(self) -> dict[str, float]:
        """`eval_loss` in nats per trained token: summed over all rows, so that batches cannot skew it."""
        batch_size = self.args.per_device_eval_batch_size
        return {"eval_loss": held_out_loss(self.model, self._validation, self._pad, batch_size)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record and refuse a loss that is no number; the checkpoint before it stays."""
        for name in ("loss", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                raise UserError(
                    f"the {name} became {logs[name]} at step {self.state.global_step}: training diverged; lower "
                    f"training.learning_rate (now {self.args.learning_rate:g}) or raise training.warmup_ratio. The "
                    "last checkpoint is kept."
                )
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = [sum(map(len, ids)) for ids in zip(*(dataset[name] for name in self.lengths_of), strict=True)]
        return LengthGroupedSampler(lengths, self.args.per_device_train_batch_size, self.args.seed)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """The weights and the tokenizer; transformers would put its arguments beside them, pickled."""
        folder = output_dir or self.args.output_dir
        self.model.save_pretrained(folder, state_dict=state_dict)
        self.processing_class.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = {"optimizer": self.optimizer.state_dict(), "schedule": self.lr_scheduler.state_dict()}
        save_tree(Path(output_dir), OPTIMIZER, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = load_tree(Path(checkpoint), OPTIMIZER)
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["schedule"])

    def _save_rng_state(self, output_dir: str) -> None:
        save_tree(Path(output_dir), RANDOM, random_state())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_state(load_tree(Path(checkpoint), RANDOM))

    def _save_scaler(self, output_dir: str) -> None:
        if (scaler := self.accelerator.scaler) is not None:
            save_tree(Path(output_dir), SCALER, scaler.state_dict())

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(load_tree(Path(checkpoint), SCALER))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        load_weights(self.model, Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}")

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the pipeline writes its own."""

    def _send_telemetry(self) -> None:
        """None: training reports to nobody."""


def computing_in_16_bit(model: Any) -> AbstractContextManager[Any]:
    """Autocast where the weights are fp32 (full fine-tuning); a 16-bit model needs none: it would only add casts."""
    device = model.device
    dtype = compute_dtype(str(device))
    return torch.autocast(device.type, dtype, enabled=model.dtype == torch.float32)


@torch.no_grad()
def held_out_loss(model: Any, rows: Rows, pad_token_id: int, batch_size: int) -> float:
    """Nats per trained token of `rows`; the model's mode (train, eval) is restored."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in batches_by_length(rows, batch_size):
        tensors = {key: value.to(model.device) for key, value in collate(batch, pad_token_id).items()}
        with computing_in_16_bit(model):
            loss, tokens = answer_loss(model, tensors)
        total, count = total + float(loss), count + tokens
    model.train(was_training)
    return total / count


def training_arguments(settings: TrainingSettings, folder: Path, device: str, dtype: torch.dtype) -> SFTConfig:
    """transformers' and TRL's arguments for one run; `folder` takes the checkpoints."""
    return SFTConfig(
        output_dir=str(folder),
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        per_device_eval_batch_size=2 * settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        optim=settings.optim,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_ratio,  # below 1: a share of the steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        neftune_noise_alpha=settings.neftune_noise_alpha,
        seed=settings.seed,
        # The rows are tokens already; TRL would cut them at 1,024 and drop what is then fully masked.
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        # The model is 16 bit throughout, so autocast would only add casts; fp16 needs it, for the loss scaling.
        bf16=False,
        fp16=dtype == torch.float16,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        eval_strategy="steps",
        eval_steps=settings.eval_steps,
        save_strategy="steps",
        save_steps=settings.eval_steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=list(settings.report_to) or "none",
    )


class Evaluations(TrainerCallback):
    """Evaluate after the last step too, and stop when the held-out loss has not fallen for `patience` evaluations.

    It counts in the log history, which checkpoints carry, and so is the same after a resume.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def exhausted(self, state: TrainerState) -> bool:
        """Whether the best held-out loss lies `patience` evaluations back."""
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry and entry["step"] > 0]
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self._patience

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.exhausted(state):
            control.should_training_stop = True


class Progress(TrainerCallback):
    """Report each step with loss, speed, time left and memory."""

    def __init__(self, report: Reporter, meter: "_Meter", device: str) -> None:
        self._report = report
        self._meter = meter
        self._device = device
        self._last_eval: float | None = None
        self._first_step: int | None = None
        self._started = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._first_step is None:
            self._first_step, self._started = state.global_step, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "eval_loss" in logs:
            self._last_eval = logs["eval_loss"]
            self._report.log(f"step {state.global_step}: held-out loss {self._last_eval:.4f} nats per token")
        if "loss" not in logs:
            return
        done = state.global_step - (self._first_step or 0)
        values = {
            "loss": logs["loss"],
            "tokens_per_second": self._meter.tokens_per_second,
            "eta_seconds": (time.monotonic() - self._started) / max(1, done) * (state.max_steps - state.global_step),
            "memory_gb": memory_gb(self._device),
        }
        logs |= {name: values[name] for name in ("tokens_per_second", "memory_gb")}
        if self._last_eval is not None:
            values["eval_loss"] = self._last_eval
        self._report.progress(state.global_step, state.max_steps, **values)


class _Meter:
    """Tokens read by training steps (padding left out), and the seconds that those took."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._entered = 0.0

    def __enter__(self) -> None:
        self._entered = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._entered

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def train(trainer: AnswerTrainer, evaluations: Evaluations) -> int:
    """Train from the newest valid checkpoint, or from the start; returns the step it began at.

    Interrupted, it leaves a checkpoint of the present step and raises KeyboardInterrupt.
    """
    checkpoint = newest_valid(Path(trainer.args.output_dir))
    stopping = Stopping()
    trainer.add_callback(stopping)
    if checkpoint is None:
        trainer.args.eval_on_start = True  # the held-out loss of the untrained adapter: where the curve begins
        with stopping.listening():
            trainer.train()
        return 0
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step >= state.max_steps or evaluations.exhausted(state):
        trainer.state = state  # killed between its last checkpoint and the end: nothing is left to train
    else:
        with stopping.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint))
    return step_of(checkpoint)
