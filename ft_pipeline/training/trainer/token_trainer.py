"""transformers' Trainer on tokenized rows, with our own loss, batches and verified checkpoints."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerControl, TrainerState

from ft_pipeline.errors import UserError
from ft_pipeline.models.attention import reads_end_to_end
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.techniques import load_weights, save_sharded_weights
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.acceleration import without_compiled_code
from ft_pipeline.training.trainer.arguments import TokenTrainingArguments
from ft_pipeline.training.trainer.batches import (
    LengthGroupedSampler,
    RowBatches,
    TokenBatches,
    batches_by_length,
    collate,
    count_tokens,
    lengths_of,
)
from ft_pipeline.training.trainer.callbacks import Throughput
from ft_pipeline.training.trainer.checkpoint_state import (
    load_tree,
    open_tree,
    random_state,
    save_tree,
    set_random_state,
)
from ft_pipeline.training.trainer.checkpoints import (
    checkpoint_folder,
    checkpoint_step,
    newest_valid,
    prune,
    seal,
    steps_in,
)
from ft_pipeline.training.trainer.data_parallel import RankBatches, Ranks, read_optimizer_state
from ft_pipeline.training.trainer.evaluations import EarlyStopping, best_steps
from ft_pipeline.training.trainer.expert_balance import collect_balance_losses
from ft_pipeline.training.trainer.held_out_values import HeldOutValues
from ft_pipeline.training.trainer.interruption import InterruptCallback
from ft_pipeline.training.trainer.loss import answer_loss, evaluation_mode, sum_by_row, token_losses
from ft_pipeline.training.trainer.memory_usage import memory_gb
from ft_pipeline.training.trainer.stochastic_rounding import rounding_optimizer

OPTIMIZER, RANDOM, SCALER = "optimizer", "random", "scaler"
"""Parts of a checkpoint other than the weights: each is a .json and a .safetensors file."""
_FILLER_KEY = "filler"
"""Key in a batch that does not count. It only keeps a rank in step with the others."""
_POSITION = "position"
"""Key of a validation row: its place among them."""
Rows = Sequence[dict[str, Any]]
"""Each row has `input_ids` and `labels`, lists of int. Other columns are ignored."""


@dataclass(frozen=True)
class TrainerSetup:
    """What the trainer of an experiment is made from."""

    settings: ExperimentSettings
    model: Any
    tokenizer: Any
    train: Rows
    validation: Rows
    arguments: TokenTrainingArguments
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def arguments_of_trainer(self) -> tuple[Any, ...]:
        """The arguments of TokenTrainer."""
        return self.model, self.tokenizer, self.train, self.validation, self.arguments, self.ranks

    def with_rows(self, change: Callable[[Rows], Rows]) -> "TrainerSetup":
        """Return the same with changed rows in both splits."""
        return replace(self, train=change(self.train), validation=change(self.validation))

    def with_reference(self, compute: Callable[[Any, Rows, int | None, int, Ranks], Rows]) -> "TrainerSetup":
        """Return the same with what `compute` adds to the rows of a split: the log probabilities under the model as it
        is now. compute: gets the model, the rows, the padding token, the rows of a batch, and the ranks."""
        pad, size = batch_pad_token_id(self.model, self.tokenizer), self.arguments.per_device_eval_batch_size
        return self.with_rows(lambda rows: compute(self.model, rows, pad, size, self.ranks))


class TokenTrainer(Trainer):
    """Trains on the loss of the trained tokens alone, divided by their number in the whole optimizer step."""

    loss_is_scaled_for_ga = True
    """`compute_loss` divides by the tokens of all accumulated batches; the Trainer must not divide again."""
    length_columns: tuple[str, ...] = ("input_ids",)
    """The columns whose lengths decide which rows share a batch."""
    held_out_measures: tuple[str, ...] = ()
    """Names of the held-out metrics that `row_sums` returns in addition to the loss."""
    notes: tuple[str, ...] = ()
    """What is logged before the first step."""
    collate = staticmethod(collate)
    control: TrainerControl
    args: TokenTrainingArguments

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        train: Rows,
        validation: Rows,
        args: TokenTrainingArguments,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self._validation = validation
        self.held_out = HeldOutValues(validation)
        self._pad_token_id = batch_pad_token_id(model, tokenizer)
        self._filler_row = train[0]
        self.meter = Throughput(model.device)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=validation[:1],
            processing_class=tokenizer,
            data_collator=self._collate,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(self.meter)
        # Makes the Trainer count the trained tokens of an optimizer step and pass the number to compute_loss.
        self.model_accepts_loss_kwargs = True

    @classmethod
    def for_experiment(cls, setup: TrainerSetup) -> "TokenTrainer":
        """Return the trainer of one experiment."""
        return cls(*setup.arguments_of_trainer)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the summed loss divided by the items of the optimizer step, times the number of ranks, because
        gradients are averaged over them."""
        several = self.ranks.are_several
        total, count, *_ = model(self._rank_loss, inputs) if several else self.summed_loss(model, inputs)
        return total * self.ranks.count / (count if num_items_in_batch is None else num_items_in_batch)

    def summed_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return the summed loss (nats) over the items of a batch (trained tokens here), and the number of items.

        While training, a mixture of experts adds its load-balancing loss for each item. Divided by the items of the
        step, this is the average over the batches of the step. If the step is one batch, it is the model's own loss.
        """
        with compute_autocast(model), collect_balance_losses(model) as balance_losses:
            total, count = answer_loss(model, batch)
        return total + count * sum(balance_losses), count

    def row_sums(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the held-out values of each row of a batch [rows, 2 + `held_out_measures`]: the summed loss over its
        items, their number, and the sum of each measure."""
        with compute_autocast(model):
            losses = token_losses(model, batch)
        return torch.stack([sum_by_row(batch, losses), sum_by_row(batch, torch.ones_like(losses))], 1)

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Return the number of items over which `summed_loss` sums this batch."""
        return int((batch["labels"][:, 1:] != MASKED).sum())

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Return the number of items of one optimizer step, summed over all ranks."""
        counted = [batch for batch in batch_samples if is_counted(batch)]
        rank_tokens = sum(map(count_tokens, counted))
        items, tokens = self.ranks.sum_over_ranks(sum(map(self.count_items, counted)), rank_tokens)
        self.meter.tokens += int(tokens)
        return torch.tensor(int(items), device=device)

    def _collate(self, rows: Rows) -> dict[str, Tensor]:
        """Return a batch. If the last batch has too few rows for every rank, return one that does not count."""
        if rows:
            return self.collate(rows, pad_token_id=self._pad_token_id)
        return {**self.collate([self._filler_row], pad_token_id=self._pad_token_id), _FILLER_KEY: torch.tensor(True)}

    def _rank_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return `summed_loss` of a batch, or zeros if it does not count. The module of the ranks calls this."""
        return tuple(value * is_counted(batch) for value in self.summed_loss(model, batch))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches of the optimizer step that begins here, and start timing it."""
        self.meter.start_step()
        return super().get_batch_samples(*args, **kwargs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Log and return the held-out metrics. `eval_loss` decides which checkpoint is the best."""
        metrics = self.compute_held_out_metrics()
        self.log(metrics)
        self.held_out.keep(self.state)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def compute_held_out_metrics(self) -> dict[str, float]:
        """Return `eval_loss` in nats per item, and each of `held_out_measures` per item, after `held_out` has taken the
        values of each row. Sums run over all rows, so that the batch sizes do not skew them."""
        losses, items, *measured = zip(*self._held_out_rows(), strict=True)
        measures = {"eval_loss": losses, **dict(zip(self.held_out_measures, measured, strict=True))}
        self.held_out.measure(items, measures)
        return {name: sum(values) / sum(items) for name, values in measures.items()}

    def _held_out_rows(self) -> list[list[float]]:
        """Return `row_sums` of each validation row."""
        rows = [{**row, _POSITION: position} for position, row in enumerate(self._validation)]
        size, tokens = self.args.per_device_eval_batch_size, self.args.tokens_per_batch
        # Without gradients, twice as much fits.
        batches = batches_by_length(rows, size, self.length_columns, tokens and 2 * tokens)
        own: dict[int, list[float]] = {}
        with evaluation_mode(self.model), without_compiled_code():
            for batch, is_counted in self.ranks.share(batches):
                collated = self.collate(batch, pad_token_id=self._pad_token_id)
                values = self._forward(self.row_sums, collated).tolist()
                if is_counted:
                    own |= dict(zip((row[_POSITION] for row in batch), values, strict=True))
        found = {position: values for part in self.ranks.gather_values(own) for position, values in part.items()}
        return [found[position] for position in range(len(rows))]

    def _forward(self, function: Callable[[Any, dict[str, Tensor]], Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Return a function of the current model and a batch, whether the weights are sharded or not."""
        return self.ranks.run(function, self.model, {key: value.to(self.model.device) for key, value in batch.items()})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the values, with speed and memory added before any tracker reads them. UserError if a loss is not finite;
        the previous checkpoint is kept."""
        for name in ("loss", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                raise UserError(
                    f"Training diverged: the {name} became {logs[name]} at step {self.state.global_step}. Lower "
                    f"training.learning_rate (now {self.args.learning_rate:g}) or raise training.warmup_ratio. The "
                    "last checkpoint is kept."
                )
        if "loss" in logs:
            memory = memory_gb(str(self.model.device))
            logs |= {"tokens_per_second": self.meter.tokens_per_second, "memory_gb": memory}
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        lengths = lengths_of(train_dataset or self.train_dataset, self.length_columns)
        return LengthGroupedSampler(lengths, self.args.per_device_train_batch_size, self.args.seed)

    def get_train_dataloader(self) -> DataLoader:
        """Return the training batches. If there are several ranks, each one reads its share of every batch. accelerate
        would make the batches larger instead."""
        budget = self.args.tokens_per_batch
        if not self.ranks.are_several and budget is None:
            return super().get_train_dataloader()
        if budget is None:
            whole: Any = RowBatches(self._get_train_sampler(), self.args.per_device_train_batch_size)
        else:
            whole = TokenBatches(lengths_of(self.train_dataset, self.length_columns), budget, self.args.seed)
        batches = RankBatches(whole, self.ranks)
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimizer. For bf16 weights it rounds stochastically."""
        if self.ranks.are_several:
            self._rank_module = self.ranks.wrap(self.model)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer_cls_and_kwargs = rounding_optimizer(self.model, optimizer_class, options, self.args.seed)
        return super().create_optimizer(model)

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """Do nothing: the model is on its device. Moving it would replace weights that are sharded."""

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Return the module of the ranks if there are several. accelerate wraps only `self.model`, so it leaves this
        module unchanged."""
        return self._rank_module if self.ranks.are_several else super()._wrap_model(model, training, dataloader)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint of this step, complete before an older one is removed.

        One older checkpoint is kept: the best one. If this step is the best, the best before it is kept. If none was
        evaluated, the previous one is kept.
        """
        super()._save_checkpoint(model, trial)
        self.ranks.wait()  # until every rank has written its shards
        if self.ranks.is_first:
            root, step = Path(self.args.output_dir), self.state.global_step
            self.held_out.save(checkpoint_folder(root, step))
            seal(checkpoint_folder(root, step))
            earlier = [previous for previous in (*steps_in(root), *best_steps(self.state)) if previous < step]
            prune(root, {step, *earlier[-1:]})
        self.ranks.wait()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the weights and the tokenizer. transformers would also save its arguments, pickled."""
        folder = output_dir or self.args.output_dir
        if self.ranks.sharded:
            save_sharded_weights(self.model, Path(folder), self.ranks)
        elif self.ranks.is_first:
            options = {} if isinstance(self.model, PeftModel) else {"save_original_format": False}
            if isinstance(self.model, PeftModel):  # nobody reads the model card of a checkpoint, and it takes 0.1 s
                self.model.create_or_update_model_card = lambda _: None
            self.model.save_pretrained(folder, state_dict=state_dict, **options)
        if self.ranks.is_first:
            self.processing_class.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.ranks.is_first or self.ranks.sharded:
            state = {"optimizer": self.optimizer.state_dict(), "schedule": self.lr_scheduler.state_dict()}
            save_tree(Path(output_dir), OPTIMIZER, state, self.ranks.number)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = open_tree(Path(checkpoint), OPTIMIZER)
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self.optimizer.load_state_dict(read_optimizer_state(state["optimizer"], parameters))
            self.lr_scheduler.load_state_dict(state["schedule"])

    def _save_rng_state(self, output_dir: str) -> None:
        states = self.ranks.gather_values(random_state())
        if self.ranks.is_first:
            for rank, state in enumerate(states):
                save_tree(Path(output_dir), _random_state_name(rank), state)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the state of this rank, or that of rank 0 if fewer ranks wrote the checkpoint."""
        if checkpoint is not None:
            name = _random_state_name(self.ranks.number)
            exists = (Path(checkpoint) / f"{name}.json").exists()
            set_random_state(load_tree(Path(checkpoint), name if exists else RANDOM))

    def _save_scaler(self, output_dir: str) -> None:
        if (scaler := self.accelerator.scaler) is not None and self.ranks.is_first:
            save_tree(Path(output_dir), SCALER, scaler.state_dict())

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(load_tree(Path(checkpoint), SCALER))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model if model is None else model, Path(resume_from_checkpoint))


def batch_pad_token_id(model: Any, tokenizer: Any) -> int | None:
    """Return the token id that pads the batches of `model`; None if its rows are laid end to end."""
    token: int = tokenizer.pad_token_id
    return None if reads_end_to_end(model) else token


def is_counted(batch: dict[str, Tensor]) -> bool:
    """Whether the rows of a batch count. Those of a filler batch, which keeps a rank in step, do not."""
    return _FILLER_KEY not in batch


def _random_state_name(rank: int) -> str:
    return RANDOM if rank == 0 else f"{RANDOM}-{rank}"


def train_or_resume(trainer: TokenTrainer, early_stopping: EarlyStopping) -> int:
    """Train from the newest valid checkpoint, or from the start. Return the step at which training began.

    If interrupted, save a checkpoint of the current step and raise KeyboardInterrupt.
    """
    checkpoint = newest_valid(Path(trainer.args.output_dir))
    interruption = InterruptCallback(trainer.ranks.is_set_on_any)
    trainer.add_callback(interruption)
    if checkpoint is None:
        trainer.args.eval_on_start = True  # the held-out loss of the untrained adapter: where the curve begins
        with interruption.handle_signals():
            trainer.train()
        return 0
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    trainer.held_out.load(checkpoint)
    if state.global_step >= state.max_steps or early_stopping.should_stop(trainer.args, state):
        trainer.state = state  # killed between its last checkpoint and the end: nothing is left to train
    else:
        with interruption.handle_signals():
            trainer.train(resume_from_checkpoint=str(checkpoint))
    return checkpoint_step(checkpoint)
