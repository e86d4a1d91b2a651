"""Group relative policy optimization: the model answers each prompt several times, and answers with a higher reward
than their group become more likely (Shao et al. 2024, arXiv 2402.03300; group_loss.py has the formulas).

Rows are the prompts of the conversations, with the reference answers that rewards compare with. Each optimizer step
draws new answers with the weights of that step. The held-out reward is that of the greedy answers to the validation
prompts, as models are scored; `eval_loss` is 1 minus this reward, so that the best checkpoint has the best reward.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainingArguments

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.chat import prompt_and_target, with_prompt
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.models.model_structure import context_window
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.rewards import GrpoSettings
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.formats.turns import is_trained, plain
from ft_pipeline.training.objectives import group_loss
from ft_pipeline.training.objectives.reward_client import RewardProcess
from ft_pipeline.training.objectives.rollouts import Prompt, Rollout, Rollouts
from ft_pipeline.training.objectives.rows import PreparedRows, RowSource, TableRows
from ft_pipeline.training.objectives.start_weights import StartWeights
from ft_pipeline.training.tokens.chat_tokens import MASKED, Rendered, encode, find_dropped_turns
from ft_pipeline.training.tokens.token_audit import AnswerChecks, Row
from ft_pipeline.training.trainer.batches import collate, count_tokens
from ft_pipeline.training.trainer.data_parallel import Ranks
from ft_pipeline.training.trainer.expert_balance import collect_balance_losses
from ft_pipeline.training.trainer.loss import answer_states, detached_head, head_losses
from ft_pipeline.training.trainer.token_trainer import Rows, TokenTrainer

_COLUMNS = ["id", "split", "file", "row", "messages", "tools"]


def prepare_rows(job: Job, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> PreparedRows:
    """Return a row for each trained answer of the input conversations: the prompt, and the reference answer as labels.
    UserError if a split has no row."""
    table = read_columns(job.inputs["conversations"] / "rows.parquet", _COLUMNS)
    splits = table["split"].to_numpy()
    for name in ("train", "validation"):
        if not (splits == name).any():
            raise UserError(
                f"No {name} prompts: the {len(table)} conversations have no {name} row. Add data, or change the shares "
                "in project.yaml."
            )
    kept = TableRows(table, np.flatnonzero((splits == "train") | (splits == "validation")))
    checks = AnswerChecks(tokenizer)

    def make(items: slice) -> list[Row]:
        return _tokenize(tokenizer, kept.read(items.start, items.stop), settings.data.system_prompt)

    return PreparedRows([RowSource(len(kept), make, checks.add)], checks.results, extra_columns=["conversation"])


def _tokenize(tokenizer: Any, rows: list[dict[str, Any]], system_prompt: str | None) -> list[Row]:
    """Return a row for each trained answer of some conversations."""
    turns = [
        (row, plain(row["messages"])[: turn + 1])
        for row in rows
        for turn, message in enumerate(row["messages"])
        if is_trained(message)
    ]
    prompted = [with_prompt(messages, system_prompt, []) for _, messages in turns]
    texts = [_render(tokenizer, row, messages) for (row, _), messages in zip(turns, prompted, strict=True)]
    return [
        Row(
            row["id"],
            "prompt",
            row["split"],
            row["file"],
            row["row"],
            text,
            tokens,
            find_dropped_turns(whole, [text]),
            (tuple(calls),) if (calls := whole[-1].get("tool_calls")) else (),
            row.get("tools"),
            {"conversation": json.dumps({"messages": messages, "tools": row.get("tools")}, ensure_ascii=False)},
        )
        for (row, messages), whole, text, tokens in zip(turns, prompted, texts, encode(tokenizer, texts), strict=True)
    ]


def _render(tokenizer: Any, row: dict[str, Any], messages: list[dict[str, Any]]) -> Rendered:
    """Return the prompt with the reference answer. The UserError also names the row."""
    try:
        context, target = prompt_and_target(tokenizer, messages, row.get("tools"))
    except UserError as error:
        raise UserError(f"{row['file']}:{row['row']}: {error}") from error
    return Rendered(context + target, ((len(context), len(context) + len(target)),), split_by_turn=False)


class GroupTrainer(TokenTrainer):
    """TokenTrainer on prompts, with answers that each optimizer step draws."""

    def __init__(self, *args: Any, grpo: GrpoSettings, rewards: RewardProcess) -> None:
        self._grpo = grpo
        super().__init__(*args)
        self._rollouts = Rollouts(self.model, self.processing_class, rewards, grpo.max_new_tokens)
        self._start = StartWeights(self.model) if grpo.beta else None
        self._facts: dict[str, float] = {}
        self._kl_sum = self._kl_tokens = 0.0

    @classmethod
    def for_experiment(
        cls,
        settings: ExperimentSettings,
        model: Any,
        tokenizer: Any,
        train: Rows,
        validation: Rows,
        arguments: TrainingArguments,
        ranks: Ranks,
        rewards: dict[str, Any] | None = None,
    ) -> "GroupTrainer":
        """Return the trainer of one experiment. rewards: as evaluation.reward_config returns it."""
        if ranks.are_several:
            raise UserError("objective 'grpo' trains in one process, not in several. Set FT_NUM_PROCESSES=1.")
        assert rewards is not None
        _require_room(settings, model, [*train, *validation])
        _require_temperature(settings.grpo.temperature, model)
        process = RewardProcess(settings.grpo, rewards)
        trainer = cls(model, tokenizer, train, validation, arguments, ranks, grpo=settings.grpo, rewards=process)
        network = (
            "with network, which this system does not let it give up" if process.has_network else "without network"
        )
        trainer.notes = (f"rewards ({', '.join(settings.grpo.rewards)}) are computed in a process {network}",)
        return trainer

    def _collate(self, rows: Rows) -> dict[str, Any]:
        """Return the prompts of a batch. They become tensors when they have answers."""
        return {"prompts": [_prompt_of(row) for row in rows]}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Return None: the items are counted when there are answers."""
        return None

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Draw the answers of the optimizer step that begins here, and return its batches with the number of items."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        groups = [[prompt] * self._grpo.num_generations for batch in batches for prompt in batch["prompts"]]
        seed = step_seed(self.args.seed, self.state.global_step)
        rollouts = self._rollouts.draw(
            [prompt for group in groups for prompt in group],
            batch_size=self.args.per_device_train_batch_size * self._grpo.num_generations,
            temperature=self._grpo.temperature,
            seed=seed,
        )
        rewards = torch.tensor([rollout.reward.total for rollout in rollouts], dtype=torch.float64)
        grouped = rewards.view(len(groups), -1)
        values = group_loss.advantages(grouped, self._grpo.scale_rewards).flatten().tolist()
        self._facts = {
            **describe(rollouts),
            "groups_without_signal": float((~group_loss.has_signal(grouped)).float().mean()),
            "rollout_seed": seed,
        }
        lengths = [len(rollout.ids) for rollout in rollouts if self._is_in_loss(rollout)]
        sizes = [len(batch["prompts"]) * self._grpo.num_generations for batch in batches]
        parts = _split(list(zip(rollouts, values, strict=True)), sizes)
        made = [self._batch(part, device) for part in parts]
        return made, torch.tensor(group_loss.count_items(self._grpo, lengths), device=device)

    def _is_in_loss(self, rollout: Rollout) -> bool:
        return not (rollout.is_cut_off and self._grpo.mask_truncated_completions)

    def _batch(self, answers: Sequence[tuple[Rollout, float]], device: torch.device) -> dict[str, Tensor]:
        """Return a batch of the answers that have a gradient: with `advantages`, `weights` and, for the KL, `start`, by
        token."""
        used = [
            (rollout, advantage)
            for rollout, advantage in answers
            if self._is_in_loss(rollout) and (advantage or self._start)
        ]
        weights = [group_loss.token_weight(self._grpo, len(rollout.ids)) for rollout, _ in used]
        if not used:  # a step has all of its batches: one answer, without weight
            used, weights = [(answers[0][0], 0.0)], [0.0]
        rows = [_row_of(rollout) for rollout, _ in used]
        batch = {name: value.to(device) for name, value in collate(rows, self._pad_token_id).items()}
        tokens = torch.tensor([len(rollout.ids) for rollout, _ in used], device=device)
        for name, values in (("advantages", [advantage for _, advantage in used]), ("weights", weights)):
            batch[name] = torch.tensor(values, dtype=torch.float32, device=device).repeat_interleave(tokens)
        if self._start is not None:
            with self._start.in_place(), compute_autocast(self.model):
                batch["start"] = self._log_probabilities(self.model, batch)
        self.meter.tokens += count_tokens(batch)
        return batch

    def _log_probabilities(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the log probability of each token of the answers [tokens], at the temperature of the answers."""
        states, targets = answer_states(model, batch)
        return -head_losses(model, states / self._grpo.temperature, targets)

    def summed_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return the summed loss over the tokens of the answers of a batch, times their weights, and their number."""
        with compute_autocast(model), collect_balance_losses(model) as balance_losses:
            policy = self._log_probabilities(model, batch)
        kl = None
        if "start" in batch:
            kl = group_loss.kl_to_start(policy, batch["start"])
            self._kl_sum += float(kl.detach().sum())
            self._kl_tokens += len(policy)
        losses = group_loss.token_objective(policy, batch["advantages"], kl, self._grpo.beta)
        total = (losses * batch["weights"]).sum() + batch["weights"].sum() * sum(balance_losses)
        return total, len(policy)

    def compute_held_out_metrics(self) -> dict[str, float]:
        """Return the reward of the greedy answers to the validation prompts, and `eval_loss`: 1 minus this reward."""
        rollouts = self._rollouts.draw(
            [_prompt_of(row) for row in self._validation],
            batch_size=self.args.per_device_train_batch_size * self._grpo.num_generations,
            temperature=0.0,
            seed=self.args.seed,
        )
        facts = describe(rollouts)
        rewards = [rollout.reward.total for rollout in rollouts]
        self.held_out.measure([1] * len(rewards), {"eval_reward": rewards})
        return {"eval_loss": 1 - facts["reward"], **{f"eval_{name}": value for name, value in facts.items()}}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the values, with the rewards of the step."""
        if "loss" in logs:
            kl = {"kl": self._kl_sum / self._kl_tokens} if self._kl_tokens else {}
            logs |= {**self._facts, **kl}
            self._kl_sum = self._kl_tokens = 0.0
        super().log(logs, start_time)


def step_seed(seed: int, step: int) -> int:
    """Return the seed of the answers of an optimizer step: the same whether the training was resumed or not."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}".encode()).digest()[:4], "big")


def describe(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Return the mean reward, that of each metric, the tokens of an answer, and the share that is cut off."""
    rewards = [rollout.reward for rollout in rollouts]
    facts = {"reward": fmean(reward.total for reward in rewards)}
    facts |= {f"reward/{name}": fmean(reward.values[name] for reward in rewards) for name in rewards[0].values}
    return facts | {
        "answer_tokens": fmean(len(rollout.ids) for rollout in rollouts),
        "cut_off": fmean(rollout.is_cut_off for rollout in rollouts),
        "failed_rewards": sum(reward.failed for reward in rewards),
    }


def _prompt_of(row: dict[str, Any]) -> Prompt:
    """Return the prompt of a row: the tokens before the reference answer."""
    begin = next(position for position, label in enumerate(row["labels"]) if label != MASKED)
    return Prompt(row["input_ids"][:begin], json.loads(row["conversation"]))


def _row_of(rollout: Rollout) -> dict[str, list[int]]:
    prompt, answer = rollout.prompt.ids, rollout.ids
    return {"input_ids": [*prompt, *answer], "labels": [MASKED] * len(prompt) + list(answer)}


def _split(values: list[Any], sizes: Sequence[int]) -> Iterator[list[Any]]:
    begin = 0
    for size in sizes:
        yield values[begin : begin + size]
        begin += size


def _require_room(settings: ExperimentSettings, model: Any, rows: Rows) -> None:
    """Raise UserError if the longest prompt and the longest answer are too long together."""
    longest = max(len(_prompt_of(row).ids) for row in rows)
    window = context_window(model.config.get_text_config()) or settings.training.max_length
    limit = min(settings.training.max_length, window)
    if longest + settings.grpo.max_new_tokens > limit:
        raise UserError(
            f"The longest prompt has {longest} tokens, which with grpo.max_new_tokens: {settings.grpo.max_new_tokens} "
            f"is more than the limit of {limit}. Lower max_new_tokens, raise training.max_length, or remove the row."
        )


def _require_temperature(temperature: float, model: Any) -> None:
    """Raise UserError if the head of the model does not allow another temperature than 1."""
    if temperature != 1 and not detached_head(model).is_linear:
        raise UserError(f"grpo.temperature is {temperature:g}, and the head of this model is not linear. Set it to 1.")
