"""Distillation of token distributions: a student learns what a teacher holds likely at each token of an answer, instead
of the answer alone.

loss = D(teacher, student) at each token of the teacher's answer, after the student's own prompt. The teacher read
another prompt before the same answer, so both are aligned by the position in the answer (trainer/distribution_loss.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.chat import prompt_and_target, with_prompt
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.splits import SPLITS, TRAIN, VALIDATION
from ft_pipeline.training.objectives.drawn_answers import require_room, step_seed
from ft_pipeline.training.objectives.own_answers import (
    Asked,
    OwnAnswers,
    Teacher,
    distinct_prompts,
    is_on_policy,
    prompt_of,
)
from ft_pipeline.training.objectives.rows import PreparedRows, RowSource, TableRows
from ft_pipeline.training.tokens.chat_tokens import Rendered, encode
from ft_pipeline.training.tokens.held_out import LEFT_OUT, split_or_leave_out
from ft_pipeline.training.tokens.token_audit import AnswerChecks, Row
from ft_pipeline.training.trainer.acceleration import without_compiled_code
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.distribution_loss import Divergence, TopTokens, distribution_losses
from ft_pipeline.training.trainer.expert_balance import collect_balance_losses
from ft_pipeline.training.trainer.loss import evaluation_mode, sum_by_row
from ft_pipeline.training.trainer.token_trainer import Rows, TokenTrainer, TrainerSetup

DISTRIBUTION = ("top_ids", "top_log_probabilities", "rest")
"""Columns of the training data with the teacher's distributions."""
_EXTRA = (*DISTRIBUTION, "teacher_prompt", "answer")
_COLUMNS = ["id", "table", "split", "file", "row", "prompt_messages", "tools", "target_ids", *_EXTRA]


def prepare_rows(job: Job, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> PreparedRows:
    """Return the teacher's answers with its distributions. UserError if a split has no answer.

    The hash of an unlabelled prompt decides whether it is held out for validation, as for conversations. An answer near
    a held-out row of the input conversations is left out.
    """
    answers, splits, left_out = _split(job)
    for name, split in (("training", TRAIN), ("validation", VALIDATION)):
        if not (splits == split).any():
            raise UserError(
                f"No {name} answers: the teacher has {len(answers)} usable ones, {len(left_out)} of them near a "
                "held-out row. Add prompts to data/raw/unlabelled, or change the shares in project.yaml."
            )
    names = [np.array(SPLITS)[np.minimum(splits, VALIDATION)]]
    answers = answers.set_column(answers.schema.get_field_index("split"), "split", names)
    kept = TableRows(answers, np.flatnonzero(splits != LEFT_OUT))
    checks = AnswerChecks(tokenizer)
    source = RowSource(
        len(kept), lambda items: _tokenize(tokenizer, kept.read(items.start, items.stop), settings), checks.add
    )
    return PreparedRows([source], checks.results, left_out, extra_columns=_EXTRA)


def _split(job: Job) -> tuple[pa.Table, np.ndarray, list[dict[str, Any]]]:
    """Return the answers, the split of each (TRAIN, VALIDATION or LEFT_OUT), and those left out.

    The prompt of a conversation has the split of the conversation.
    """
    answers = read_columns(job.inputs["teacher_distributions"] / "rows.parquet", _COLUMNS)
    shares = DataSettings.model_validate(job.config["data"])
    unlabelled, conversations = (answers.filter(known(answers["split"])) for known in (pc.is_null, pc.is_valid))
    splits, left_out = split_or_leave_out(job.inputs["conversations"], unlabelled, shares)
    known_splits = np.array([SPLITS.index(split) for split in conversations["split"].to_pylist()], dtype=splits.dtype)
    return pa.concat_tables([unlabelled, conversations]), np.concatenate([splits, known_splits]), left_out


def _tokenize(tokenizer: Any, answers: list[dict[str, Any]], settings: ExperimentSettings) -> list[Row]:
    """Return a row for each answer, after the prompt that the student is served with."""
    texts = []
    for answer in answers:
        messages = [*plain(answer["prompt_messages"]), {"role": "assistant", "content": answer["answer"]}]
        conversation = with_prompt(messages, settings.data.system_prompt, [])
        context, target = prompt_and_target(tokenizer, conversation, answer["tools"])
        texts.append(Rendered(context + target, ((len(context), len(context) + len(target)),), split_by_turn=False))
    rows = [
        Row(
            answer["id"],
            "teacher",
            answer["split"],
            answer["table"],
            answer["file"],
            answer["row"],
            text,
            tokens,
            extra={name: answer[name] for name in _EXTRA},
        )
        for answer, text, tokens in zip(answers, texts, encode(tokenizer, texts), strict=True)
    ]
    for row, answer in zip(rows, answers, strict=True):
        if row.trained != answer["target_ids"]:
            raise ValueError(f"{row.origin}: the tokens of the answer are not those that the teacher read")
    return rows


def collate_distributions(rows: Sequence[dict[str, Any]], pad_token_id: int | None) -> dict[str, Tensor]:
    """Return batches.collate of the rows, and the teacher's distributions [trained tokens, k], row after row."""
    rest = torch.from_numpy(np.concatenate([np.asarray(row["rest"], np.float32) for row in rows]))
    ids, log_probabilities = (
        torch.from_numpy(np.concatenate([np.asarray(row[name], dtype) for row in rows])).reshape(len(rest), -1)
        for name, dtype in (("top_ids", np.int64), ("top_log_probabilities", np.float32))
    )
    return {
        **collate(rows, pad_token_id),
        "top_ids": ids,
        "top_log_probabilities": log_probabilities,
        "rest": rest,
    }


@dataclass(frozen=True)
class OnPolicy:
    """The answers of the student itself, and how often it learns from them."""

    answers: OwnAnswers
    share: float
    held_out: Sequence[Asked]
    """The validation prompts."""


class DistributionTrainer(TokenTrainer):
    """TokenTrainer on the teacher's distributions. Losses are divergences in nats per token.

    On-policy, some optimizer steps replace the teacher's answers by the student's own to the same prompts.
    """

    collate = staticmethod(collate_distributions)

    def __init__(self, *args: Any, divergence: Divergence, on_policy: OnPolicy | None = None) -> None:
        self._divergence, self._on_policy = divergence, on_policy
        super().__init__(*args)

    @classmethod
    def for_experiment(
        cls, setup: TrainerSetup, base: Path | None = None, teacher: Path | None = None
    ) -> "DistributionTrainer":
        """Return the trainer of one experiment.

        base: the folder of the student's base model, for on-policy distillation. teacher: as in Teacher.
        """
        settings, model, distill = setup.settings, setup.model, setup.settings.distill
        assert distill is not None
        on_policy = None
        if settings.is_on_policy:
            if setup.ranks.are_several:
                raise UserError("distill.on_policy trains in one process, not in several. Set FT_NUM_PROCESSES=1.")
            assert base is not None
            rows = [*setup.train, *setup.validation]
            require_room(rows, model, settings.training.max_length, "distill", distill.max_new_tokens)
            reader = Teacher(model, base, teacher)
            answers = OwnAnswers(model, setup.tokenizer, reader, distill, setup.arguments.per_device_train_batch_size)
            on_policy = OnPolicy(answers, distill.on_policy, distinct_prompts(setup.validation))
        divergence = Divergence(distill.divergence, distill.jsd_beta)
        return cls(*setup.arguments_of_trainer, divergence=divergence, on_policy=on_policy)

    def summed_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return the summed divergence over the trained tokens of a batch, and their number."""
        with collect_balance_losses(model) as balance_losses:
            losses = self._divergences(model, batch)
        return losses.sum() + len(losses) * sum(balance_losses), len(losses)

    def _collate(self, rows: Rows) -> dict[str, Any]:
        """Return a batch, with its prompts if the student may have to answer them."""
        batch: dict[str, Any] = super()._collate(rows)
        return batch | ({"prompts": list(map(prompt_of, rows))} if self._on_policy else {})

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Return None on-policy: the items are counted when there are answers."""
        return None if self._on_policy else super()._get_num_items_in_batch(batch_samples, device)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the batches of the optimizer step that begins here, with the student's answers if it is one of theirs,
        and the number of items."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._on_policy is None or not batches:
            return batches, items
        prompts = [batch.pop("prompts") for batch in batches]
        if is_on_policy(self.state.global_step, self._on_policy.share):
            seed = step_seed(self.args.seed, self.state.global_step)
            rows = iter(self._on_policy.answers.rows([prompt for part in prompts for prompt in part], seed))
            batches = [self._on_device([next(rows) for _ in part]) for part in prompts]
        return batches, super()._get_num_items_in_batch(batches, device)

    def _on_device(self, rows: Rows) -> dict[str, Tensor]:
        """Return a batch on the device of the model."""
        batch = self.collate(rows, pad_token_id=self._pad_token_id)
        return {name: value.to(self.model.device) for name, value in batch.items()}

    def compute_held_out_metrics(self) -> dict[str, float]:
        """Return the divergence on the teacher's answers, which decides (`eval_loss`), and on-policy also that on the
        student's own answers to the same prompts (`eval_own_answers`)."""
        metrics = super().compute_held_out_metrics()
        if self._on_policy is None:
            return metrics
        rows = self._on_policy.answers.rows(self._on_policy.held_out, self.args.seed)
        size = self.args.per_device_eval_batch_size
        with evaluation_mode(self.model), without_compiled_code():
            parts = [
                self.summed_loss(self.model, self._on_device(rows[begin : begin + size]))
                for begin in range(0, len(rows), size)
            ]
        total, count = (sum(float(part[index]) for part in parts) for index in range(2))
        return {**metrics, "eval_own_answers": total / count}

    def row_sums(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the held-out values of each row: its summed divergence, and the number of its trained tokens."""
        losses = self._divergences(model, batch)
        return torch.stack([sum_by_row(batch, losses), sum_by_row(batch, torch.ones_like(losses))], 1)

    def _divergences(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the divergence at each trained token [tokens]."""
        teacher = TopTokens(batch["top_ids"], batch["top_log_probabilities"], batch["rest"])
        with compute_autocast(model):
            return distribution_losses(model, batch, teacher, self._divergence)
