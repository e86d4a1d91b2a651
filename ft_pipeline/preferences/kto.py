"""Kahneman-Tversky optimization: answers with a thumb up become more likely, those with a thumb down less likely
(Ethayarajh et al. 2024, arXiv 2402.01306).

The *gain* of an answer is log π(y) − log π₀(y) in nats: how much more likely it is than under the reference model π₀,
the model that training starts from. β times the gain is its reward. The gain is compared with the mean gain of answers
that belong to other prompts: how much the model has moved in general (KL). The KL has no gradient and is never below 0.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.preferences.settings import KtoSettings, PreferenceKeys
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.splits import TRAIN, VALIDATION
from ft_pipeline.training.objectives.answers import tokenize_answers
from ft_pipeline.training.objectives.rows import PreparedRows, RowSource, TableRows
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.tokens.held_out import LEFT_OUT, split_or_leave_out
from ft_pipeline.training.tokens.token_audit import AnswerChecks, Row
from ft_pipeline.training.trainer.acceleration import without_compiled_code
from ft_pipeline.training.trainer.batches import batches_by_length, collate
from ft_pipeline.training.trainer.data_parallel import Ranks
from ft_pipeline.training.trainer.expert_balance import collect_balance_losses
from ft_pipeline.training.trainer.loss import evaluation_mode, sequence_log_probabilities
from ft_pipeline.training.trainer.token_trainer import Rows, TokenTrainer, TrainerSetup, is_counted

UP, DOWN = "up", "down"
"""Row.source of an answer with a thumb up, and with a thumb down."""
MISMATCHED = "mismatched_"
"""Prefix of the keys that belong to the answer of another prompt."""


def prepare_rows(job: Job, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> PreparedRows:
    """Return a row for each rated answer of the input feedback. UserError if a split has no thumb of one kind.

    The hash of its prompt decides whether a row is held out for validation, as for conversations. A row near a held-out
    row of the input conversations is left out, except a validation row near a validation row.
    """
    columns = ["id", "file", "row", "prompt_messages", "completion", "label", "tools"]
    table = read_columns(job.inputs["feedback"] / "rows.parquet", columns)
    shares = DataSettings.model_validate(job.config["data"])
    splits, left_out = split_or_leave_out(job.inputs["conversations"], table, shares)
    is_good = np.array(table["label"].to_pylist(), dtype=bool)
    for name, split in (("train", TRAIN), ("validation", VALIDATION)):
        for thumb, wanted in ((UP, True), (DOWN, False)):
            if not ((splits == split) & (is_good == wanted)).any():
                raise UserError(
                    f"No {name} row with a thumb {thumb}: {len(table)} rows in data/raw/feedback, {len(left_out)} of "
                    "them near a held-out row. Add feedback, or change the shares in project.yaml."
                )
    table = table.append_column("split", [np.array(["train", "validation"])[np.minimum(splits, VALIDATION)]])
    kept, checks = TableRows(table, np.flatnonzero(splits != LEFT_OUT)), AnswerChecks(tokenizer)

    def make(items: slice) -> list[Row]:
        rows = kept.read(items.start, items.stop)
        sources = [UP if row["label"] else DOWN for row in rows]
        return tokenize_answers(tokenizer, "feedback", rows, "completion", sources, settings)

    return PreparedRows([RowSource(len(kept), make, checks.add)], checks.results, left_out)


def with_mismatched_answers(rows: Rows, max_length: int) -> list[dict[str, Any]]:
    """Return the rows with `mismatched_ids` and `mismatched_labels`: the prompt of the row, and the answer of the
    nearest row before it that has another prompt. The order is that of their ids, which are hashes, and the last row
    comes before the first one. max_length: in tokens; a longer text is cut at its end.
    """
    order = sorted(range(len(rows)), key=lambda index: rows[index]["id"])
    prompts, answers = zip(*(_parts(rows[index]) for index in order), strict=True)
    partners: dict[int, int] = {}
    for step in range(2 * len(order)):  # twice, because what comes before the first row is only known at the end
        position = step % len(order)
        before = (position - 1) % len(order)
        partners[position] = before if prompts[before] != prompts[position] else partners.get(before, before)
    found: dict[int, dict[str, list[int]]] = {}
    for position, index in enumerate(order):
        ids = [*prompts[position], *answers[partners[position]]][:max_length]
        begin = len(prompts[position])
        found[index] = {f"{MISMATCHED}ids": ids, f"{MISMATCHED}labels": [MASKED] * begin + ids[begin:]}
    return [{**row, **found[index]} for index, row in enumerate(rows)]


def _parts(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt and of the answer, which begins with the first trained token."""
    begin = next(position for position, label in enumerate(row["labels"]) if label != MASKED)
    return row["input_ids"][:begin], row["input_ids"][begin:]


def with_reference(
    model: Any, rows: Rows, pad_token_id: int | None, batch_size: int, ranks: Ranks | None = None
) -> list[dict[str, Any]]:
    """Return the rows with the log probability (nats) of each answer, and of each mismatched one, under the current
    model. Each rank computes its share."""
    ranks = ranks or Ranks()
    own = _log_probabilities(model, rows, pad_token_id, batch_size, ranks)
    made = [{**row, "reference": value} for row, value in zip(rows, own, strict=True)]
    if not rows or f"{MISMATCHED}ids" not in rows[0]:
        return made
    mismatched = _log_probabilities(model, [_mismatched_row(row) for row in rows], pad_token_id, batch_size, ranks)
    return [{**row, f"{MISMATCHED}reference": value} for row, value in zip(made, mismatched, strict=True)]


def _log_probabilities(model: Any, rows: Rows, pad_token_id: int | None, batch_size: int, ranks: Ranks) -> list[float]:
    """Return the log probability of each answer. The batches are those of an evaluation, so that the gains at the start
    are 0, not a number that rounding leaves."""
    found: dict[int, float] = {}
    numbered = [{**row, "number": number} for number, row in enumerate(rows)]
    with evaluation_mode(model), without_compiled_code(), compute_autocast(model):
        for part, counts in ranks.share(batches_by_length(numbered, batch_size)):
            batch = {name: tensor.to(model.device) for name, tensor in collate(part, pad_token_id).items()}
            values = ranks.run(sequence_log_probabilities, model, batch).tolist()
            if counts:
                found |= dict(zip((row["number"] for row in part), values, strict=True))
    of_all_ranks = {number: value for part in ranks.gather_values(found) for number, value in part.items()}
    return [of_all_ranks[number] for number in range(len(rows))]


def _mismatched_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"input_ids": row[f"{MISMATCHED}ids"], "labels": row[f"{MISMATCHED}labels"]}


def collate_thumbs(rows: Sequence[dict[str, Any]], pad_token_id: int | None) -> dict[str, Tensor]:
    """Return batches.collate of the rows, `reference` and `is_good` [rows], and the same of their mismatched answers,
    with MISMATCHED before each key."""
    batch = {
        **collate(rows, pad_token_id),
        "reference": torch.tensor([row["reference"] for row in rows], dtype=torch.float32),
        "is_good": torch.tensor([row["source"] == UP for row in rows]),
    }
    if f"{MISMATCHED}ids" not in rows[0]:
        return batch
    mismatched = collate([_mismatched_row(row) for row in rows], pad_token_id)
    references = [row[f"{MISMATCHED}reference"] for row in rows]
    mismatched["reference"] = torch.tensor(references, dtype=torch.float32)
    return batch | {f"{MISMATCHED}{name}": tensor for name, tensor in mismatched.items()}


def _without_mismatched(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch.items() if not name.startswith(MISMATCHED)}


def _mismatched(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch of the mismatched answers."""
    return {name.removeprefix(MISMATCHED): part for name, part in batch.items() if name.startswith(MISMATCHED)}


def thumb_losses(gains: Tensor, is_good: Tensor, kl: Tensor | float, settings: KtoSettings) -> Tensor:
    """Return the loss of each answer [rows]: 1 − σ(β (gain − kl)) with a thumb up, 1 − σ(β (kl − gain)) with a thumb
    down, times its weight (equations 7 and 8 of the paper). With a kl of 0, this is `apo_zero_unpaired`."""
    ahead = torch.where(is_good, gains - kl, kl - gains)
    ones = torch.ones_like(gains)
    weights = torch.where(is_good, settings.desirable_weight * ones, settings.undesirable_weight * ones)
    return weights * (1 - torch.sigmoid(settings.beta * ahead))


def held_out_metrics(
    gains: Sequence[float], is_good: Sequence[bool], mismatched: Sequence[float], settings: KtoSettings
) -> dict[str, float]:
    """Return the mean loss and what explains it: the KL (nats), the mean rewards of both kinds of answers, their
    difference, and the probability that an answer with a thumb up gained more than one with a thumb down."""
    kl = max(0.0, fmean(mismatched)) if mismatched else 0.0
    values, good = torch.tensor(gains, dtype=torch.float64), torch.tensor(is_good)
    metrics = {"eval_loss": float(thumb_losses(values, good, kl, settings).mean())}
    if settings.loss_type == "kto":
        metrics["eval_kl"] = kl
    up, down = settings.beta * values[good], settings.beta * values[~good]
    if len(up) and len(down):
        metrics |= {"eval_up_reward": float(up.mean()), "eval_down_reward": float(down.mean())}
        metrics["eval_margin"] = metrics["eval_up_reward"] - metrics["eval_down_reward"]
        metrics["eval_accuracy"] = float((0.5 + 0.5 * torch.sign(up[:, None] - down)).mean())
    return metrics


def row_measures(
    gains: Sequence[float], is_good: Sequence[bool], metrics: dict[str, float], settings: KtoSettings
) -> dict[str, list[float]]:
    """Return the loss of each row and its part of the margin, whose means are those of `held_out_metrics`."""
    values, good = torch.tensor(gains, dtype=torch.float64), torch.tensor(is_good)
    measures = {"eval_loss": thumb_losses(values, good, metrics.get("eval_kl", 0.0), settings).tolist()}
    if "eval_margin" in metrics:
        up = int(good.sum())
        parts = torch.where(good, len(gains) / up, -len(gains) / (len(gains) - up))
        measures["eval_margin"] = (settings.beta * values * parts).tolist()
    return measures


class ThumbTrainer(TokenTrainer):
    """TokenTrainer on answers with a thumb. Losses are per answer."""

    collate = staticmethod(collate_thumbs)

    def __init__(self, *args: Any, kto: KtoSettings) -> None:
        self._kto = kto
        self._kl = 0.0
        super().__init__(*args)

    @classmethod
    def for_experiment(cls, setup: TrainerSetup) -> "ThumbTrainer":
        """Return the trainer of one experiment. The model, as it is now, is the reference."""
        kto = PreferenceKeys.of(setup.settings).kto
        if kto.loss_type == "kto":
            longest = max(len(row["input_ids"]) for row in (*setup.train, *setup.validation))
            setup = setup.with_rows(lambda rows: with_mismatched_answers(rows, longest))
        trainer = cls(*setup.with_reference(with_reference).arguments_of_trainer, kto=kto)
        trainer.notes = (describe_balance([row["source"] for row in setup.train], kto),)
        return trainer

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches of the optimizer step that begins here, with its KL as `kl`. All rows of the step are in
        the estimate, whatever the number of batches and of ranks."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if batches and self._kto.loss_type == "kto":
            self._kl = self._estimate_kl(batches)
        made = [
            {**_without_mismatched(batch), "kl": torch.tensor(self._kl, device=batch["reference"].device)}
            for batch in batches
        ]
        return made, items

    def _estimate_kl(self, batches: Sequence[dict[str, Tensor]]) -> float:
        total = count = 0.0
        with evaluation_mode(self.model), without_compiled_code():
            for batch in batches:
                gains = self._forward(self._gains, _mismatched(batch)).tolist()
                total += is_counted(batch) * sum(gains)
                count += is_counted(batch) * len(gains)
        total, count = self.ranks.sum_over_ranks(total, count)
        return max(0.0, total / count)

    def _gains(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return how much each answer of a batch gained [rows]."""
        with compute_autocast(model):
            return sequence_log_probabilities(model, batch) - batch["reference"]

    def summed_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return the summed loss over the rows of a batch, and their number."""
        with collect_balance_losses(model) as balance_losses:
            gains = self._gains(model, batch)
        losses = thumb_losses(gains, batch["is_good"], batch["kl"], self._kto)
        return losses.sum() + len(losses) * sum(balance_losses), len(losses)

    def row_sums(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return how much each answer gained, and its mismatched answer if the KL is estimated [rows, 1 or 2]."""
        parts = [_without_mismatched(batch), *([_mismatched(batch)] if self._kto.loss_type == "kto" else [])]
        return torch.stack([self._gains(model, part) for part in parts], 1)

    def count_items(self, batch: dict[str, Tensor]) -> int:
        return len(batch["reference"])

    def compute_held_out_metrics(self) -> dict[str, float]:
        """Return `held_out_metrics` of all validation rows together, so that the batch sizes do not skew them."""
        gains, *mismatched = map(list, zip(*self._held_out_rows(), strict=True))
        is_good = [row["source"] == UP for row in self._validation]
        metrics = held_out_metrics(gains, is_good, mismatched[0] if mismatched else [], self._kto)
        self.held_out.measure([1] * len(gains), row_measures(gains, is_good, metrics, self._kto))
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the values, with the KL of the step."""
        if "loss" in logs and self._kto.loss_type == "kto":
            logs |= {"kl": self._kl}
        super().log(logs, start_time)


def describe_balance(sources: Sequence[str], settings: KtoSettings) -> str:
    """Return the line on the numbers of thumbs of both kinds and their weights (equation 8 of the paper)."""
    up, down = sources.count(UP), sources.count(DOWN)
    ratio = settings.desirable_weight * up / max(settings.undesirable_weight * down, 1e-9)
    return (
        f"{up:,} thumbs up and {down:,} thumbs down; with their weights, thumbs up count {ratio:.2f} times as much "
        "(1 to 1.33 is recommended: kto.desirable_weight, kto.undesirable_weight)"
    )
