"""Direct preference optimization: make the preferred answer more likely than the rejected one, relative to a reference
model.

The losses are in pair_losses.py. The reference π₀ is the model that training starts from. Its part is computed once,
before the first step, so that no second model is in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.preferences.settings import DpoSettings, PairLoss, PreferenceKeys
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.splits import TRAIN, VALIDATION
from ft_pipeline.training.objectives.answers import tokenize_answers
from ft_pipeline.training.objectives.rows import PreparedRows, RowSource, TableRows
from ft_pipeline.training.tokens.held_out import LEFT_OUT, split_or_leave_out
from ft_pipeline.training.tokens.token_audit import AnswerChecks, Row
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.data_parallel import Ranks
from ft_pipeline.training.trainer.expert_balance import collect_balance_losses
from ft_pipeline.training.trainer.loss import evaluation_mode, sequence_log_probabilities, trained_tokens_of_rows
from ft_pipeline.training.trainer.token_trainer import Rows, TokenTrainer, TrainerSetup


@dataclass(frozen=True)
class PairScores:
    """The scores of the answers of several pairs, and their lengths."""

    preferred: Tensor
    """Score [pairs] of the preferred answer, in nats, summed over its tokens."""
    rejected: Tensor
    preferred_tokens: Tensor
    """Trained tokens [pairs] of the preferred answer."""
    rejected_tokens: Tensor

    @property
    def leads(self) -> Tensor:
        """How much more the preferred answer gained than the rejected one [pairs], in nats."""
        return self.preferred - self.rejected


def _sigmoid(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Rafailov et al. 2023 (arXiv 2305.18290, equation 7), with the label smoothing of cDPO (Mitchell 2023)."""
    margins, smoothing = settings.beta * scores.leads, settings.label_smoothing
    return -(1 - smoothing) * functional.logsigmoid(margins) - smoothing * functional.logsigmoid(-margins)


def _robust(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Ray Chowdhury et al. 2024 (arXiv 2403.00409): `sigmoid` without bias, if a known share of pairs is reversed."""
    margins, smoothing = settings.beta * scores.leads, settings.label_smoothing
    right, reversed_ = functional.logsigmoid(margins), functional.logsigmoid(-margins)
    return (smoothing * reversed_ - (1 - smoothing) * right) / (1 - 2 * smoothing)


def _hinge(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Zhao et al. 2023 (SLiC, arXiv 2305.10425): no more gradient once the margin is 1."""
    return torch.relu(1 - settings.beta * scores.leads)


def _ipo(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Azar et al. 2023 (arXiv 2310.12036, equation 17), with scores per token, as its authors use it."""
    preferred = scores.preferred / scores.preferred_tokens.clamp(min=1)
    rejected = scores.rejected / scores.rejected_tokens.clamp(min=1)
    return (preferred - rejected - 1 / (2 * settings.beta)) ** 2


def _apo_zero(scores: PairScores, settings: DpoSettings) -> Tensor:
    """D'Oosterlinck et al. 2024 (arXiv 2408.06266, equation 7): the preferred answer becomes more likely, the rejected
    one less likely, each by itself."""
    return 1 - torch.sigmoid(settings.beta * scores.preferred) + torch.sigmoid(settings.beta * scores.rejected)


PAIR_LOSSES: Mapping[PairLoss, Callable[[PairScores, DpoSettings], Tensor]] = {
    "sigmoid": _sigmoid,
    "robust": _robust,
    "hinge": _hinge,
    "ipo": _ipo,
    "apo_zero": _apo_zero,
}


SIDES = ("preferred", "rejected")
REFERENCES = tuple(f"{side}_reference" for side in SIDES)
"""Keys of a pair: the log probability of each answer under the reference model, in nats."""


def prepare_rows(job: Job, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> PreparedRows:
    """Return each pair of the input preferences as two texts, the preferred and the rejected answer after the same
    prompt. UserError if a split has no pair.

    The hash of its prompt decides whether a pair is held out for validation, as for conversations. A pair near a
    held-out row of the input conversations is left out.
    """
    columns = ["id", "file", "row", "prompt_messages", "chosen", "rejected", "tools"]
    pairs = read_columns(job.inputs["preferences"] / "rows.parquet", columns)
    shares = DataSettings.model_validate(job.config["data"])
    splits, left_out = split_or_leave_out(job.inputs["conversations"], pairs, shares)
    for name, split in (("train", TRAIN), ("validation", VALIDATION)):
        if not (splits == split).any():
            raise UserError(
                f"No {name} pairs: {len(pairs)} in data/raw/preferences, {len(left_out)} of them near a held-out row. "
                "Add pairs, or change the shares in project.yaml."
            )
    pairs = pairs.append_column("split", [np.array(["train", "validation"])[np.minimum(splits, VALIDATION)]])
    kept = TableRows(pairs, np.flatnonzero(splits != LEFT_OUT))
    preferred, rejected = AnswerChecks(tokenizer), AnswerChecks(tokenizer)

    def make(rows: list[dict[str, Any]], side: str) -> list[Row]:
        sources = ["preferred" if side == "chosen" else "rejected"] * len(rows)
        return tokenize_answers(tokenizer, "preferences", rows, side, sources, settings)

    def source(side: str, checks: AnswerChecks) -> RowSource:
        return RowSource(
            len(kept),
            lambda items: make(kept.read(items.start, items.stop), side),
            checks.add,
        )

    def results() -> dict[str, Any]:
        preferred.extend(rejected)
        return preferred.results()

    return PreparedRows([source("chosen", preferred), source("rejected", rejected)], results, left_out, are_pairs=True)


def collate_pairs(rows: Sequence[dict[str, Any]], pad_token_id: int | None) -> dict[str, Tensor]:
    """Return batches.collate of 2 × pairs rows, the preferred answers first, and `reference` [2, pairs]: the log
    probability (nats) of each preferred and each rejected answer under the reference model."""
    rejected = [{"input_ids": pair["rejected_ids"], "labels": pair["rejected_labels"]} for pair in rows]
    reference = [[pair[f"{side}_reference"] for pair in rows] for side in SIDES]
    return {
        **collate([*rows, *rejected], pad_token_id),
        "reference": torch.tensor(reference, dtype=torch.float32),
    }


def with_reference(
    model: Any, pairs: Rows, pad_token_id: int | None, batch_size: int, ranks: Ranks | None = None
) -> list[dict[str, Any]]:
    """Return the pairs with the log probability of each answer, computed by the current model. Its mode (train, eval)
    is restored. Each rank computes its share."""
    ranks = ranks or Ranks()
    order = sorted(range(len(pairs)), key=lambda index: -_length(pairs[index]))
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    unknown = dict.fromkeys(REFERENCES, 0.0)
    computed: dict[int, dict[str, float]] = {}
    with evaluation_mode(model):
        for indices, _ in ranks.share(batches):
            batch = collate_pairs([{**pairs[index], **unknown} for index in indices], pad_token_id)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            values = ranks.run(_log_probabilities, model, batch).tolist()
            for index, *pair_values in zip(indices, *values, strict=True):
                computed[index] = dict(zip(REFERENCES, pair_values, strict=True))
    of_all_ranks = {index: values for part in ranks.gather_values(computed) for index, values in part.items()}
    return [{**pair, **of_all_ranks[index]} for index, pair in enumerate(pairs)]


class PreferenceTrainer(TokenTrainer):
    """TokenTrainer on pairs that have the log probabilities of the reference model. Losses are per pair."""

    length_columns = ("input_ids", "rejected_ids")
    held_out_measures = ("eval_accuracy", "eval_margin", "eval_preferred_reward", "eval_rejected_reward")
    """The share of pairs whose preferred answer gained more than the rejected one, and the mean rewards: β times what
    an answer gained against the reference model, in nats."""
    collate = staticmethod(collate_pairs)

    def __init__(self, *args: Any, dpo: DpoSettings) -> None:
        self._dpo = dpo
        super().__init__(*args)

    @classmethod
    def for_experiment(cls, setup: TrainerSetup) -> "PreferenceTrainer":
        """Return the trainer of one experiment. The model, as it is now, is the reference."""
        return cls(
            *setup.with_reference(with_reference).arguments_of_trainer, dpo=PreferenceKeys.of(setup.settings).dpo
        )

    def summed_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return the summed loss over the pairs of a batch, and their number."""
        with collect_balance_losses(model) as balance_losses:
            losses, _ = self._losses(model, batch)
        return losses.sum() + len(losses) * sum(balance_losses), len(losses)

    def row_sums(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the held-out values of each pair: its loss, 1 (a pair is one item), and `held_out_measures`."""
        losses, scores = self._losses(model, batch)
        rewards = [self._dpo.beta * side for side in (scores.leads, scores.preferred, scores.rejected)]
        return torch.stack([losses, torch.ones_like(losses), (scores.leads > 0).to(losses.dtype), *rewards], 1)

    def _losses(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, PairScores]:
        """Return the loss of each pair [pairs], and what it is computed from."""
        log_probabilities = _log_probabilities(model, batch)
        preferred_tokens, rejected_tokens = trained_tokens_of_rows(batch).chunk(2)
        preferred, rejected = log_probabilities - batch["reference"]
        scores = PairScores(preferred, rejected, preferred_tokens, rejected_tokens)
        losses = pair_losses(scores, self._dpo)
        if self._dpo.sft_weight:
            losses = losses - self._dpo.sft_weight * log_probabilities[0] / preferred_tokens.clamp(min=1)
        return losses, scores

    def count_items(self, batch: dict[str, Tensor]) -> int:
        return batch["reference"].shape[1]


def _log_probabilities(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the log probabilities [2, pairs] of the preferred and the rejected answers, in nats."""
    with compute_autocast(model):
        return torch.stack(sequence_log_probabilities(model, batch).chunk(2))


def _length(pair: dict[str, Any]) -> int:
    return len(pair["input_ids"]) + len(pair["rejected_ids"])


def pair_losses(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Return the loss of each pair [pairs]."""
    return PAIR_LOSSES[settings.loss_type](scores, settings)
