"""The smallest rows and settings of each objective. A new objective adds a line to MATERIAL."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ft_pipeline.job import Job
from ft_pipeline.models.chat import prompt_and_target
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.rewards.config import reward_config
from ft_pipeline.settings.evaluation import EvaluationSettings
from ft_pipeline.training.trainer.distribution_loss import distribution_columns
from ft_pipeline_tests.training.subject import PAIRS, feedback_rows, preference_rows, support_rows, text_rows

CONVERSATIONS = support_rows()
TRAINING = {"max_steps": 4, "eval_steps": 2, "per_device_train_batch_size": 4, "optim": "adamw_torch", "seed": 3}
LETTERS = "def letters(answer):\n    return sum(letter in 'etaoin ' for letter in answer) / max(1, len(answer))\n"
SYSTEM = "You are the shop."
TOP = 8


def no_reward(job: Job) -> None:
    """Most objectives have no config besides the experiment's."""


def letters_reward(job: Job) -> None:
    """Reward the share of frequent letters."""
    (job.work / "checks.py").write_text(LETTERS, encoding="utf-8")
    evaluation = EvaluationSettings.model_validate({"metrics": {"letters": {"function": "checks.letters"}}})
    job.config["rewards"] = reward_config(job.work, evaluation, {"letters": 1})


def answers_of_a_teacher(base: Path) -> list[dict[str, Any]]:
    """The model itself is the teacher of given answers, under a prompt that the student does not see."""
    tokenizer, model = load_tokenizer(base), load_model(base, "cpu")
    rows = []
    for number in range(24):
        question, answer = PAIRS[number % len(PAIRS)]
        prompt = [{"role": "user", "content": f"{question} Tell me, take {number}."}]
        turns = [*prompt, {"role": "assistant", "content": answer}]
        context, target = prompt_and_target(tokenizer, [{"role": "system", "content": SYSTEM}, *turns])
        before, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, target))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]
        columns = {name: values.tolist() for name, values in distribution_columns(logits, TOP).items()}
        origin = {"id": f"{number:064x}", "sample": 0, "table": "unlabelled", "file": "inbox.jsonl", "row": number + 1}
        texts = {"prompt_messages": prompt, "tools": None, "teacher_prompt": context, "answer": answer}
        rows.append({**origin, "split": None, **texts, "target_ids": ids, **columns})
    return rows


@dataclass(frozen=True)
class Material:
    """Rows by input, and what the settings need besides the objective."""

    objective: str
    rows: dict[str, Callable[[Path], list[dict[str, Any]]]] = field(default_factory=dict)
    """Input of `training_data` → its rows, for a base model."""
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Job], None] = no_reward
    """Add what the spec of its adapter has besides the settings."""
    filtered: str | None = None
    """The input whose rows are left out near a held-out row; None if its table was filtered before."""
    trains_on_conversations: bool = False

    def write(self, folder: Path, base: Path, **changed: list[dict[str, Any]] | pa.Table) -> dict[str, Path]:
        """Write the inputs, or `changed` in their place."""
        for name, rows in ({key: make(base) for key, make in self.rows.items()} | changed).items():
            (folder / name).mkdir(parents=True)
            table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
            pq.write_table(table, folder / name / "rows.parquet")
        return {name: folder / name for name in self.rows}


_ANSWERED = {"teacher_distributions": answers_of_a_teacher}
_TEACHER = {"variant": "shop", "max_new_tokens": 8, "top_k": TOP}
MATERIAL = {
    "sft": Material("sft", trains_on_conversations=True),
    "cpt": Material("cpt", {"text": lambda base: text_rows()}, training={"max_length": 64}, filtered="text"),
    "dpo": Material("dpo", {"preferences": lambda base: preference_rows()}, filtered="preferences"),
    "kto": Material("kto", {"feedback": lambda base: feedback_rows()}, filtered="feedback"),
    "grpo": Material(
        "grpo",
        settings={"grpo": {"rewards": {"letters": 1}, "max_new_tokens": 8, "num_generations": 6}},
        training={"per_device_train_batch_size": 2, "learning_rate": 2e-2},
        prepare=letters_reward,
        trains_on_conversations=True,
    ),
    "distill": Material("distill", _ANSWERED, {"distill": _TEACHER}, filtered="teacher_distributions"),
    "distill on own answers": Material(
        "distill", _ANSWERED, {"distill": {**_TEACHER, "on_policy": 0.5}}, filtered="teacher_distributions"
    ),
}
"""By name. An objective may have several."""
