"""Group relative policy optimization: the model answers each prompt several times, and answers with a higher reward
than their group become more likely (Shao et al. 2024, arXiv 2402.03300; group_loss.py has the formulas).

Rows are the prompts of the conversations, with the reference answers that rewards compare with. Each optimizer step
draws new answers with the weights of that step. The held-out reward is that of the greedy answers to the validation
prompts, as models are scored; `eval_loss` is 1 minus this reward, so that the best checkpoint has the best reward.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.attention import reads_end_to_end
from ft_pipeline.models.chat import prompt_and_target, with_prompt
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.models.reasoning import without_reasoning
from ft_pipeline.rewards import group_loss
from ft_pipeline.rewards.client import RewardProcess
from ft_pipeline.rewards.rollouts import Prompt, Rollout, Rollouts
from ft_pipeline.rewards.settings import GrpoSettings, RewardKeys
from ft_pipeline.settings.experiment import ExperimentData, ExperimentSettings
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.formats.turns import is_trained, plain
from ft_pipeline.training.objectives.drawn_answers import prompt_ids, require_room, step_seed
from ft_pipeline.training.objectives.rows import PreparedRows, RowSource, TableRows
from ft_pipeline.training.tokens.chat_tokens import MASKED, Rendered, encode, find_dropped_turns
from ft_pipeline.training.tokens.token_audit import AnswerChecks, Row
from ft_pipeline.training.trainer.acceleration import is_compiled
from ft_pipeline.training.trainer.batches import collate, count_tokens, join_branches
from ft_pipeline.training.trainer.expert_balance import collect_balance_losses
from ft_pipeline.training.trainer.loss import answer_states, detached_head, evaluation_mode, head_losses
from ft_pipeline.training.trainer.token_trainer import Rows, TokenTrainer, TrainerSetup


class StartWeights:
    """A copy of the trained weights of a model: of LoRA's matrices, or of all weights (`full`)."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._copies = [(weight, weight.detach().clone()) for weight in model.parameters() if weight.requires_grad]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute with the start's weights inside the context, without gradients and dropout."""
        current = [weight.data for weight, _ in self._copies]
        for weight, start in self._copies:
            weight.data = start
        try:
            with evaluation_mode(self._model):
                yield
        finally:
            for (weight, _), data in zip(self._copies, current, strict=True):
                weight.data = data


_FAILED = "failed_rewards"
_COLUMNS = ["id", "split", "table", "file", "row", "messages", "tools"]


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
        return _tokenize(tokenizer, kept.read(items.start, items.stop), settings.data)

    return PreparedRows([RowSource(len(kept), make, checks.add)], checks.results, extra_columns=["conversation"])


def _tokenize(tokenizer: Any, rows: list[dict[str, Any]], data: ExperimentData) -> list[Row]:
    """Return a row for each trained answer of some conversations."""
    turns = [
        (row, plain(row["messages"])[: turn + 1])
        for row in rows
        for turn, message in enumerate(row["messages"])
        if is_trained(message)
    ]
    if data.reasoning == "drop":
        turns = [(row, without_reasoning(messages)) for row, messages in turns]
    prompted = [with_prompt(messages, data.system_prompt, []) for _, messages in turns]
    texts = [_render(tokenizer, row, messages) for (row, _), messages in zip(turns, prompted, strict=True)]
    return [
        Row(
            row["id"],
            "prompt",
            row["split"],
            row["table"],
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
        self._shares_prompts = _can_share_prompts(self.model)
        self._filler_row = min(self.train_dataset, key=lambda row: len(row["input_ids"]))
        self._facts: dict[str, float] = {}
        self._kl_sum, self._kl_tokens = 0.0, 0

    @classmethod
    def for_experiment(cls, setup: TrainerSetup, rewards: dict[str, Any] | None = None) -> "GroupTrainer":
        """Return the trainer of one experiment. rewards: as rewards/config.py returns it."""
        assert rewards is not None
        grpo, max_length = RewardKeys.of(setup.settings).grpo, setup.settings.training.max_length
        require_room([*setup.train, *setup.validation], setup.model, max_length, "grpo", grpo.max_new_tokens)
        _require_temperature(grpo.temperature, setup.model)
        process = RewardProcess(grpo, rewards, setup.ranks.gather_values)
        trainer = cls(*setup.arguments_of_trainer, grpo=grpo, rewards=process)
        trainer.notes = (f"rewards: {', '.join(grpo.rewards)}; {_describe_limits(process.limits)}",)
        return trainer

    def _collate(self, rows: Rows) -> dict[str, Any]:
        """Return the prompts of a batch. They become tensors when they have answers."""
        return {"prompts": [_prompt_of(row) for row in rows]}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Return None: the items are counted when there are answers."""
        return None

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Draw the answers of the optimizer step that begins here, and return its batches with the number of items.

        Each rank draws the answers to its prompts. A group is never divided among ranks.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        seed = step_seed(self.args.seed, self.state.global_step)
        groups = self._rollouts.draw(
            [prompt for batch in batches for prompt in batch["prompts"]],
            self._grpo.num_generations,
            batch_size=self.args.per_device_train_batch_size * self._grpo.num_generations,
            temperature=self._grpo.temperature,
            seed=seed,
        )
        advantages = [self._advantages(group) for group in groups]
        scored = [list(zip(group, values, strict=True)) for group, values in zip(groups, advantages, strict=True)]
        parts = _split(scored, [len(batch["prompts"]) for batch in batches])
        made = [self._batch([answer for group in part for answer in group], device) for part in parts]
        rollouts = [rollout for group in groups for rollout in group]
        counted = group_loss.count_items(
            self._grpo, [len(rollout.ids) for rollout in rollouts if self._is_in_loss(rollout)]
        )
        items, tokens, without_signal, of_groups = self.ranks.sum_over_ranks(
            counted, sum(map(count_tokens, made)), sum(not any(values) for values in advantages), len(groups)
        )
        self.meter.tokens += int(tokens)
        self._facts = {
            **self._describe(rollouts),
            "groups_without_signal": without_signal / of_groups,
            "rollout_seed": seed,
        }
        return made, torch.tensor(max(1, int(items)), device=device)

    def _advantages(self, group: Sequence[Rollout]) -> list[float]:
        """Return the advantage of each answer of a group. All are 0 if the group has no signal."""
        rewards = torch.tensor([[rollout.reward.total for rollout in group]], dtype=torch.float64)
        advantages: list[float] = group_loss.advantages(rewards, self._grpo.scale_rewards)[0].tolist()
        return advantages

    def _describe(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Return the facts of the answers of all ranks."""
        return describe([facts for part in self.ranks.gather_values(list(map(_facts_of, rollouts))) for facts in part])

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
        lengths, advantages = [len(rollout.ids) for rollout, _ in used], [advantage for _, advantage in used]
        if used:
            batch = self._collate_answers([rollout for rollout, _ in used])
        else:  # a step has all of its batches, on each rank: one row, without weight
            batch = collate([self._filler_row], self._pad_token_id)
            lengths, advantages, weights = [self.count_items(batch)], [0.0], [0.0]
        batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        tokens = torch.tensor(lengths, device=device)
        for name, values in (("advantages", advantages), ("weights", weights)):
            batch[name] = torch.tensor(values, dtype=torch.float32, device=device).repeat_interleave(tokens)
        if self._start is not None:
            with self._start.in_place(), compute_autocast(self.model):
                batch["start"] = self._log_probabilities(self.model, batch)
        return batch

    def _collate_answers(self, rollouts: Sequence[Rollout]) -> dict[str, Any]:
        """Return a batch in which answers are trained. Answers to the same prompt follow each other."""
        if not self._shares_prompts:
            return collate([_row_of(rollout) for rollout in rollouts], self._pad_token_id)
        groups = groupby(rollouts, key=lambda rollout: rollout.prompt.ids)
        return join_branches([(prompt, [rollout.ids for rollout in group]) for prompt, group in groups])

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
            is_counted = batch["weights"] > 0
            self._kl_sum += float(kl.detach()[is_counted].sum())
            self._kl_tokens += int(is_counted.sum())
        losses = group_loss.token_objective(policy, batch["advantages"], kl, self._grpo.beta)
        total = (losses * batch["weights"]).sum() + batch["weights"].sum() * sum(balance_losses)
        return total, len(policy)

    def compute_held_out_metrics(self) -> dict[str, float]:
        """Return the reward of the greedy answers to the validation prompts, and `eval_loss`: 1 minus this reward."""
        prompts = [_prompt_of(row) for row in self._validation[self.ranks.number :: self.ranks.count]]
        batch_size = self.args.per_device_train_batch_size * self._grpo.num_generations
        rollouts = self._rollouts.greedy(prompts, batch_size=batch_size)
        facts = self._describe(rollouts)
        parts = self.ranks.gather_values([rollout.reward.total for rollout in rollouts])
        rewards = [parts[row % self.ranks.count][row // self.ranks.count] for row in range(len(self._validation))]
        self.held_out.measure([1] * len(rewards), {"eval_reward": rewards})
        return {"eval_loss": 1 - facts["reward"], **{f"eval_{name}": value for name, value in facts.items()}}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the values, with the rewards of the step."""
        if "loss" in logs:
            kl_sum, tokens = self.ranks.sum_over_ranks(self._kl_sum, self._kl_tokens)
            logs |= {**self._facts, **({"kl": kl_sum / tokens} if tokens else {})}
            self._kl_sum, self._kl_tokens = 0.0, 0
        super().log(logs, start_time)


def describe(facts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean reward, that of each metric, the tokens of an answer, and the share that is cut off; and how many
    rewards failed. facts: those of each answer."""
    means = {name: fmean(of_answer[name] for of_answer in facts) for name in facts[0]}
    return means | {_FAILED: sum(of_answer[_FAILED] for of_answer in facts)}


def _facts_of(rollout: Rollout) -> dict[str, float]:
    reward = rollout.reward
    return {
        "reward": reward.total,
        **{f"reward/{name}": value for name, value in reward.values.items()},
        "answer_tokens": len(rollout.ids),
        "cut_off": rollout.is_cut_off,
        _FAILED: reward.failed,
    }


def _describe_limits(limits: Mapping[str, bool]) -> str:
    """Return how the process that computes rewards is limited, and how this system cannot limit it."""
    names = {
        "network": "the network",
        "files": "files of the user",
        "processes": "processes that outlive it",
    }
    kept, open_to = ([names[name] for name, holds in limits.items() if holds == wanted] for wanted in (True, False))
    line = f"they are computed in a process without {', '.join(kept)}" if kept else "they are computed in a process"
    return line + (f"; this system cannot keep it from {', '.join(open_to)}" if open_to else "")


def _prompt_of(row: dict[str, Any]) -> Prompt:
    """Return the prompt of a row: the tokens before the reference answer."""
    return Prompt(prompt_ids(row), json.loads(row["conversation"]))


def _can_share_prompts(model: Any) -> bool:
    """Whether a prompt can be computed once for its answers in training: if rows are laid end to end on a CPU. Compiled
    code would be made anew for each list of lengths."""
    return reads_end_to_end(model) and model.device.type == "cpu" and not is_compiled(model)


def _row_of(rollout: Rollout) -> dict[str, list[int]]:
    prompt, answer = rollout.prompt.ids, rollout.ids
    return {"input_ids": [*prompt, *answer], "labels": [MASKED] * len(prompt) + list(answer)}


def _split(values: list[Any], sizes: Sequence[int]) -> Iterator[list[Any]]:
    begin = 0
    for size in sizes:
        yield values[begin : begin + size]
        begin += size


def _require_temperature(temperature: float, model: Any) -> None:
    """Raise UserError if the head of the model does not allow another temperature than 1."""
    if temperature != 1 and not detached_head(model).is_linear:
        raise UserError(f"grpo.temperature is {temperature:g}, and the head of this model is not linear. Set it to 1.")
