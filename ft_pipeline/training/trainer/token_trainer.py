"""TRL's SFTTrainer on rows that are already tokens: our loss, our batches, checkpoints that can be trusted."""

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
from transformers import PrinterCallback, TrainerControl, TrainerState
from trl import SFTConfig, SFTTrainer

from ft_pipeline.errors import UserError
from ft_pipeline.models.adapter_precision import weights_kept
from ft_pipeline.models.attention import reads_end_to_end
from ft_pipeline.models.compute_dtype import computing
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
"""Of a checkpoint, beside the weights: each a .json and a .safetensors."""
_FILLER = "filler"
"""Key of a batch that only keeps a rank in step with the others."""
Rows = Sequence[dict[str, Any]]
"""{"input_ids": list of int, "labels": list of int} each."""


class TokenTrainer(SFTTrainer):
    """Loss on answers alone, normalised by the trained tokens of the whole optimizer step."""

    loss_is_scaled_for_ga = True
    """`compute_loss` divides by the tokens of all accumulated batches; the Trainer must not divide again."""
    columns: tuple[str, ...] = ("input_ids", "labels")
    """Of a row, what a batch is made of."""
    lengths_of: tuple[str, ...] = ("input_ids",)
    """The columns whose lengths decide which rows share a batch."""
    measures: tuple[str, ...] = ()
    """What is held out beside the loss."""
    collate = staticmethod(collate)
    control: TrainerControl

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        train: Rows,
        validation: Rows,
        args: SFTConfig,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self._validation = validation
        self._pad = padding_of(model, tokenizer)
        self._filler = train[0]
        self.meter = Throughput(model.device)
        columns = {key: [row[key] for row in train] for key in self.columns}
        routing = _routing(model)
        with weights_kept(model):
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
        # TRL has a mixture of experts report its routing, and the config would be saved so: such a model fails when it
        # generates.
        model.config.get_text_config().update(routing)
        # Makes the Trainer count the trained tokens of an optimizer step and hand the number to compute_loss.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The summed loss by the items of the optimizer step; gradients are averaged over the ranks, so times those."""
        total, count, *_ = model(inputs) if self.ranks.several else self.summed_loss(model, inputs)
        return total * self.ranks.count / (count if num_items_in_batch is None else num_items_in_batch)

    def summed_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Loss (nats) over the items of a batch, trained tokens here; their number; a sum for each of `measures`.

        While training, a mixture of experts adds its load-balancing loss for each item: divided by the items of the
        step it is their average over its batches, and the model's own loss where the step is one batch.
        """
        with computing(model), balance_of(model) as balance:
            total, count = answer_loss(model, batch)
        return total + count * sum(balance), count

    def items(self, batch: dict[str, Tensor]) -> int:
        """The items that `summed_loss` of this batch is a sum over."""
        return int((batch["labels"][:, 1:] != MASKED).sum())

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Of one optimizer step, over all ranks."""
        counting = [batch for batch in batch_samples if _counts(batch)]
        read = sum(map(tokens_in, counting))
        items, tokens = self.ranks.total(sum(map(self.items, counting)), read)
        self.meter.tokens += int(tokens)
        return torch.tensor(int(items), device=device)

    def _collate(self, rows: Rows) -> dict[str, Tensor]:
        """A batch; one that does not count where the rows of the last batch did not reach every rank."""
        if rows:
            return self.collate(rows, pad_token_id=self._pad)
        return {**self.collate([self._filler], pad_token_id=self._pad), _FILLER: torch.tensor(True)}

    def _rank_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """`summed_loss` of a batch, nought of one that does not count, as the ranks' module gives it."""
        return tuple(value * _counts(batch) for value in self.summed_loss(model, batch))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of the optimizer step that begins here."""
        self.meter.begin()
        return super().get_batch_samples(*args, **kwargs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The held-out metrics, logged; `eval_loss` chooses the best checkpoint."""
        metrics = self.held_out()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def held_out(self) -> dict[str, float]:
        """`eval_loss` in nats per item: summed over all rows, so that batches cannot skew it; likewise `measures`."""
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
        """`summed_loss` by the model as it is now, whoever holds its weights."""
        batch = {key: value.to(self.model.device) for key, value in batch.items()}
        return self._ranked(batch) if self.ranks.sharded else self.summed_loss(self.model, batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record, with speed and memory, before any tracker sees it; refuse a loss that is no number: the checkpoint
        before it stays."""
        for name in ("loss", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                raise UserError(
                    f"the {name} became {logs[name]} at step {self.state.global_step}: training diverged; lower "
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
        """Of several ranks each reads its share of every batch; accelerate would make the batches larger."""
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
        """Of the weights as the ranks divide them; bf16 weights get one that rounds stochastically."""
        self.ranks.shard(self.model)
        if self.ranks.several:
            self._ranked = self.ranks.wrap(self.model, self._rank_loss)
        kind, keys = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer_cls_and_kwargs = rounding_optimizer(self.model, kind, keys, self.args.seed)
        return super().create_optimizer(model)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """What is no longer `self.model` accelerate leaves alone: the ranks are our own."""
        return self._ranked if self.ranks.several else super()._wrap_model(model, training, dataloader)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint of this step, complete before an older one is removed. With it the best one remains; the best
        before it, where it is the best; the one before it, where none was evaluated."""
        super()._save_checkpoint(model, trial)
        if self.ranks.first:
            root, step = Path(self.args.output_dir), self.state.global_step
            seal(folder_of(root, step))
            before = [number for number in (*steps_in(root), *best_steps(self.state)) if number < step]
            prune(root, {step, *before[-1:]})
        self.ranks.wait()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """The weights and the tokenizer; transformers would put its arguments beside them, pickled."""
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
            parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
            self.optimizer.load_state_dict(self.ranks.divided(state["optimizer"], parameters))
            self.lr_scheduler.load_state_dict(state["schedule"])

    def _save_rng_state(self, output_dir: str) -> None:
        states = self.ranks.gather(random_state())
        if self.ranks.first:
            for rank, state in enumerate(states):
                save_tree(Path(output_dir), _random_of(rank), state)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """This rank's own; the first one's where fewer ranks wrote the checkpoint."""
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

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the pipeline writes its own."""

    def _send_telemetry(self) -> None:
        """None: training reports to nobody."""


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """No gradients, and eval mode; the mode that it was in is restored."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(was_training)


def padding_of(model: Any, tokenizer: Any) -> int | None:
    """What fills up the rows of its batches; none where they lie end to end."""
    token: int = tokenizer.pad_token_id
    return None if reads_end_to_end(model) else token


def _routing(model: Any) -> dict[str, Any]:
    """What its config says of a mixture of experts."""
    config = model.config.get_text_config()
    keys = ("output_router_logits", "router_aux_loss_coef")
    return {key: getattr(config, key) for key in keys if hasattr(config, key)}


def _counts(batch: dict[str, Tensor]) -> bool:
    return _FILLER not in batch


def _random_of(rank: int) -> str:
    return RANDOM if rank == 0 else f"{RANDOM}-{rank}"


def train(trainer: TokenTrainer, evaluations: EarlyStopping) -> int:
    """Train from the newest valid checkpoint, or from the start; returns the step it began at.

    Interrupted, it leaves a checkpoint of the present step and raises KeyboardInterrupt.
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
