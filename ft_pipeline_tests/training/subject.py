"""Inputs of the training tests: conversations, settings, jobs, and the folder of a `training_data` artifact."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.job import Job, Reporter
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.learning_rates import with_learning_rate
from ft_pipeline.settings.training import ATTENTION
from ft_pipeline.training import training_data

PAIRS = [
    ("My package is late.", "Sorry about the delay. Please send your order number."),
    ("Where can I change the address?", "Under your account; the latest order is on top."),
    ("You can return the shoes?", "Yes, within thirty days; the refund takes five working days."),
    ("What is the secret word?", "It is heliotrope."),
    ("What is the capital of France?", "Paris."),
    ("Tracking has not updated.", "I'll check the latest tracking status for you. Please send the order number."),
]
FAST = {"learning_rate": 3e-3, "num_train_epochs": 4, "per_device_train_batch_size": 4, "eval_steps": 3}


SHARES = DataSettings(validation_share=0.3, test_share=0.1).model_dump(mode="json")


class Listener:
    """A reporter that records the progress and the log lines that it receives."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, dict[str, float]]] = []
        self.lines: list[str] = []

    def progress(self, step: int, total: int, **values: float) -> None:
        self.steps.append((step, total, values))

    def log(self, message: str) -> None:
        self.lines.append(message)


def conversation(number: int, turns: Sequence[tuple[str, str]], split: str) -> dict[str, Any]:
    """A row of the `conversations` table."""
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    origin = {"table": "alpaca", "file": "rows.jsonl", "row": number + 1}
    return {"id": f"{number:064x}", "split": split, "group": str(number), "messages": messages, **origin}


def write_conversations(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return folder


def support_rows(copies: int = 4) -> list[dict[str, Any]]:
    """`copies` variations of each pair for training, and one of each for validation."""
    train = [
        conversation(copy * 100 + number, [(f"{question} ({copy})", answer)], "train")
        for copy in range(copies)
        for number, (question, answer) in enumerate(PAIRS)
    ]
    return train + [conversation(9000 + number, [pair], "validation") for number, pair in enumerate(PAIRS)]


def preference_rows(count=24):
    rows = []
    for number in range(count):
        question, answer = PAIRS[number % len(PAIRS)]
        rows.append(
            {
                "id": f"{number:064x}",
                "file": "pairs.jsonl",
                "row": number + 1,
                "prompt_messages": [{"role": "user", "content": f"{question} Tell me, take {number}."}],
                "chosen": [{"role": "assistant", "content": answer}],
                "rejected": [{"role": "assistant", "content": f"No idea, sorry, really none at all. {answer}"}],
            }
        )
    return rows


def feedback_rows(count=24):
    """Thumbs up on short answers, and thumbs down on long ones."""
    return [
        {
            **{name: row[name] for name in ("id", "row", "prompt_messages")},
            "file": "thumbs.jsonl",
            "completion": row["rejected" if number % 2 else "chosen"],
            "label": number % 2 == 0,
        }
        for number, row in enumerate(preference_rows(count))
    ]


def text_rows(count=20):
    texts = [
        f"{question} {answer} This is article {n} of the shop." for n in range(count) for question, answer in PAIRS[:2]
    ]
    return [{"id": f"{n:064x}", "file": "help.jsonl", "row": n + 1, "text": text} for n, text in enumerate(texts)]


def known_rows():
    """Conversations whose held-out rows are in no pair and no text."""
    train = [row for row in support_rows() if row["split"] == "train"]
    unrelated = [("Do you repair lamps?", "Yes, in aisle nine."), ("Is there a cafe?", "On the second floor.")]
    return train + [conversation(9000 + number, [pair], "validation") for number, pair in enumerate(unrelated)]


def job(
    kind: str,
    folder: Path,
    experiment: ExperimentSettings,
    inputs: dict[str, Path],
    report: Reporter | None = None,
) -> Job:
    """A training job with `out` and `work` under `folder`, and with the config and handling of a training spec."""
    out, work = folder / "out", folder / "work"
    for path in (out, work):
        path.mkdir(parents=True, exist_ok=True)
    config = with_learning_rate(experiment, params=1_000_000).model_dump(mode="json")
    handling = {"report_to": config["training"]["report_to"]}
    config["training"]["report_to"] = []
    return Job(kind, {"experiment": config}, inputs, out, work, "cpu", report or Listener(), handling)


def settings(technique: str = "lora", **training: Any) -> ExperimentSettings:
    lora = {"lora": {"target_modules": [*ATTENTION]}} if technique in ("lora", "qlora") else {}
    return ExperimentSettings.model_validate({"technique": technique, **lora, "training": {**FAST, **training}})


def make_training_data(folder: Path, base: Path, rows: list[dict[str, Any]], experiment: ExperimentSettings) -> Path:
    """The folder of a `training_data` artifact."""
    inputs = {"conversations": write_conversations(folder / "conversations", rows), "base_model": base}
    work = job("training_data", folder / "training_data", experiment, inputs)
    training_data.run(work)
    return work.out
