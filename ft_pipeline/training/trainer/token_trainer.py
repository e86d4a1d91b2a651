"""transformers' Trainer on tokenized rows, with our own loss, batches and verified checkpoints."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerControl, TrainerState, TrainingArguments

from ft_pipeline.errors import UserError
from ft_pipeline.models.attention import reads_end_to_end
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.techniques import load_weights
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.acceleration import computed_as_written
from ft_pipeline.training.trainer.batches import LengthGroupedSampler, batches_by_length, collate, tokens_in
from ft_pipeline.training.trainer.callbacks import Throughput
from ft_pipeline.training.trainer.checkpoint_state import load_tree, random_state, save_tree, set_random_state
from ft_pipeline.training.trainer.checkpoints import folder_of, newest_valid, prune, seal, step_of, steps_in
from ft_pipeline.training.trainer.data_parallel import RankBatches, Ranks
from ft_pipeline.training.trainer.evaluations import EarlyStopping, best_steps
from ft_pipeline.training.trainer.expert_balance import balance_of
from ft_pipeline.training.trainer.interruption import InterruptCallback
from ft_pipeline.training.trainer.loss import answer_loss
from ft_pipeline.training.trainer.memory_usage import memory_gb
from ft_pipeline.training.trainer.stochastic_rounding import rounding_optimizer

OPTIMIZER, RANDOM, SCALER = "optimizer", "random", "scaler"
"""Parts of a checkpoint other than the weights: each is a .json and a .safetensors file."""
_FILLER = "filler"
"""Key of a batch that does not count and only keeps a rank in step with the others."""
Rows = Sequence[dict[str, Any]]
"""Each row is {"input_ids": list of int, "labels": list of int}."""


class TokenTrainer(Trainer):
    """Trains on the loss of the answers alone, normalized by the trained tokens of the whole optimizer step."""

    loss_is_scaled_for_ga = True
    """`compute_loss` divides by the tokens of all accumulated batches; the Trainer must not divide again."""
    columns: tuple[str, ...] = ("input_ids", "labels")
    """The columns of a row that a batch is made of."""
    lengths_of: tuple[str, ...] = ("input_ids",)
    """The columns whose lengths decide which rows share a batch."""
    measures: tuple[str, ...] = ()
    """Names of held-out metrics other than the loss."""
    collate = staticmethod(collate)
    control: TrainerControl

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        train: Rows,
        validation: Rows,
        args: TrainingArguments,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self._validation = validation
        self._pad = padding_of(model, tokenizer)
        self._filler = train[0]
        self.meter = Throughput(model.device)
        columns = {key: [row[key] for row in train] for key in self.columns}
        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_dict(columns),
            eval_dataset=Dataset.from_dict({key: [row[key] for row in validation[:1]] for key in columns}),
            processing_class=tokenizer,
            data_collator=self._collate,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(self.meter)
        # Makes the Trainer count the trained tokens of an optimizer step and pass the number to compute_loss.
        self.model_accepts_loss_kwargs = True

    @classmethod
    def for_experiment(
        cls, settings: ExperimentSettings, model: Any, tokenizer: Any, train: Rows, validation: Rows, *args: Any
    ) -> "TokenTrainer":
        """Return the trainer of one experiment. args: the arguments of `__init__` after the rows."""
        return cls(model, tokenizer, train, validation, *args)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the summed loss divided by the items of the optimizer step, times the number of ranks, because
        gradients are averaged over them."""
        total, count, *_ = model(inputs) if self.ranks.several else self.summed_loss(model, inputs)
        return total * self.ranks.count / (count if num_items_in_batch is None else num_items_in_batch)

    def summed_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return the summed loss (nats) over the items of a batch (trained tokens here), the number of items, and a sum
        for each of `measures`.

        While training, a mixture of experts adds its load-balancing loss for each item. Divided by the items of the
        step, this is the average over the batches of the step. If the step is one batch, it is the model's own loss.
        """
        with compute_autocast(model), balance_of(model) as balance:
            total, count = answer_loss(model, batch)
        return total + count * sum(balance), count

    def items(self, batch: dict[str, Tensor]) -> int:
        """Return the number of items that `summed_loss` of this batch sums over."""
        return int((batch["labels"][:, 1:] != MASKED).sum())

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Return the number of items of one optimizer step, summed over all ranks."""
        counting = [batch for batch in batch_samples if _counts(batch)]
        read = sum(map(tokens_in, counting))
        items, tokens = self.ranks.total(sum(map(self.items, counting)), read)
        self.meter.tokens += int(tokens)
        return torch.tensor(int(items), device=device)

    def _collate(self, rows: Rows) -> dict[str, Tensor]:
        """Return a batch. If the last batch has too few rows for every rank, return one that does not count."""
        if rows:
            return self.collate(rows, pad_token_id=self._pad)
        return {**self.collate([self._filler], pad_token_id=self._pad), _FILLER: torch.tensor(True)}

    def _rank_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return `summed_loss` of a batch, or zeros if it does not count. The module of the ranks calls this."""
        return tuple(value * _counts(batch) for value in self.summed_loss(model, batch))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches of the optimizer step that begins here, and start timing it."""
        self.meter.begin()
        return super().get_batch_samples(*args, **kwargs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Log and return the held-out metrics. `eval_loss` decides which checkpoint is the best."""
        metrics = self.held_out()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def held_out(self) -> dict[str, float]:
        """Return `eval_loss` in nats per item, and each of `measures` per item. Sums run over all rows, so that the
        batch sizes do not skew them."""
        batches = batches_by_length(self._validation, self.args.per_device_eval_batch_size, self.lengths_of)
        sums = [0.0] * (2 + len(self.measures))
        with evaluating(self.model), computed_as_written():
            for rows, counts in self.ranks.share(batches):
                values = self._forward(self.collate(rows, pad_token_id=self._pad))
                sums = [before + counts * float(value) for before, value in zip(sums, values, strict=True)]
        total, count, *more = self.ranks.total(*sums)
        means = {name: value / count for name, value in zip(self.measures, more, strict=True)}
        return {"eval_loss": total / count, **means}

    def _forward(self, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return `summed_loss` of the current model, whether its weights are sharded or not."""
        batch = {key: value.to(self.model.device) for key, value in batch.items()}
        return self._ranked(batch) if self.ranks.sharded else self.summed_loss(self.model, batch)

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
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = [sum(map(len, ids)) for ids in zip(*(dataset[name] for name in self.lengths_of), strict=True)]
        return LengthGroupedSampler(lengths, self.args.per_device_train_batch_size, self.args.seed)

    def get_train_dataloader(self) -> DataLoader:
        """Return the training batches. Each of several ranks reads its share of every batch; accelerate would make the
        batches larger."""
        if not self.ranks.several:
            return super().get_train_dataloader()
        batches = RankBatches(self._get_train_sampler(), self.args.per_device_train_batch_size, self.ranks)
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimizer after sharding the weights among ranks. For bf16 weights it rounds stochastically."""
        self.ranks.shard(self.model)
        if self.ranks.several:
            self._ranked = self.ranks.wrap(self.model, self._rank_loss)
        kind, keys = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer_cls_and_kwargs = rounding_optimizer(self.model, kind, keys, self.args.seed)
        return super().create_optimizer(model)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Return the module of the ranks, if there are several. accelerate does not wrap a model that is not
        `self.model`."""
        return self._ranked if self.ranks.several else super()._wrap_model(model, training, dataloader)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint of this step, complete before an older one is removed.

        One older checkpoint is kept: the best one. If this step is the best, the best before it is kept. If none was
        evaluated, the previous one is kept.
        """
        super()._save_checkpoint(model, trial)
        if self.ranks.first:
            root, step = Path(self.args.output_dir), self.state.global_step
            seal(folder_of(root, step))
            before = [number for number in (*steps_in(root), *best_steps(self.state)) if number < step]
            prune(root, {step, *before[-1:]})
        self.ranks.wait()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the weights and the tokenizer. transformers would also save its arguments, pickled."""
        folder = output_dir or self.args.output_dir
        if self.ranks.sharded:
            state_dict = self.ranks.whole(self.model.state_dict())
        if self.ranks.first:
            whole = {} if isinstance(self.model, PeftModel) else {"save_original_format": False}
            self.model.save_pretrained(folder, state_dict=state_dict, **whole)
            self.processing_class.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = {
            "optimizer": self.ranks.whole(self.optimizer.state_dict()),
            "schedule": self.lr_scheduler.state_dict(),
        }
        if self.ranks.first:
            save_tree(Path(output_dir), OPTIMIZER, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = load_tree(Path(checkpoint), OPTIMIZER)
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self.optimizer.load_state_dict(self.ranks.divided(state["optimizer"], parameters))
            self.lr_scheduler.load_state_dict(state["schedule"])

    def _save_rng_state(self, output_dir: str) -> None:
        states = self.ranks.gather(random_state())
        if self.ranks.first:
            for rank, state in enumerate(states):
                save_tree(Path(output_dir), _random_of(rank), state)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the state of this rank, or that of rank 0 if fewer ranks wrote the checkpoint."""
        if checkpoint is not None:
            own = _random_of(self.ranks.number)
            there = (Path(checkpoint) / f"{own}.json").exists()
            set_random_state(load_tree(Path(checkpoint), own if there else RANDOM))

    def _save_scaler(self, output_dir: str) -> None:
        if (scaler := self.accelerator.scaler) is not None and self.ranks.first:
            save_tree(Path(output_dir), SCALER, scaler.state_dict())

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(load_tree(Path(checkpoint), SCALER))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model if model is None else model, Path(resume_from_checkpoint))


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Disable gradients and set eval mode inside the context. The previous mode is restored."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(was_training)


def padding_of(model: Any, tokenizer: Any) -> int | None:
    """Return the token id that pads the batches of `model`; None if its rows are laid end to end."""
    token: int = tokenizer.pad_token_id
    return None if reads_end_to_end(model) else token


def _counts(batch: dict[str, Tensor]) -> bool:
    return _FILLER not in batch


def _random_of(rank: int) -> str:
    return RANDOM if rank == 0 else f"{RANDOM}-{rank}"


def train(trainer: TokenTrainer, evaluations: EarlyStopping) -> int:
    """Train from the newest valid checkpoint, or from the start. Return the step at which training began.

    If interrupted, save a checkpoint of the current step and raise KeyboardInterrupt.
    """
    checkpoint = newest_valid(Path(trainer.args.output_dir))
    stopping = InterruptCallback(trainer.ranks.any)
    trainer.add_callback(stopping)
    if checkpoint is None:
        trainer.args.eval_on_start = True  # the held-out loss of the untrained adapter: where the curve begins
        with stopping.listening():
            trainer.train()
        return 0
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step >= state.max_steps or evaluations.exhausted(trainer.args, state):
        trainer.state = state  # killed between its last checkpoint and the end: nothing is left to train
    else:
        with stopping.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint))
    return step_of(checkpoint)
