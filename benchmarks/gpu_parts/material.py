"""The training data of each objective, made from the shipped support rows by the worker that makes it in a project."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from embedded import Conversations, Silent, read_rows, shipped_files

TRAIN, VALIDATION = 32, 8
TOP_K = 16
"""Tokens of each distribution of the teacher."""
_RATE_FACTOR = 4
SHARES = {"validation_share": 0.25, "test_share": 0.1}
_EXPERIMENTS: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {},
    "kto": {},
    "cpt": {"training": {"max_length": 128}},
    "grpo": {
        "grpo": {"rewards": {"chrf": 1}, "num_generations": 4, "max_new_tokens": 16},
        "training": {"max_steps": 4, "per_device_train_batch_size": 2},
    },
    "distill": {"distill": {"teacher": "another", "top_k": TOP_K}},
}
"""What each objective adds to an experiment."""


def experiment(objective: str, variant: dict[str, Any], **training: Any) -> dict[str, Any]:
    """The settings of an experiment of a few steps, as JSON."""
    own = _EXPERIMENTS[objective]
    steps = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "eval_steps": 4,
        "early_stopping_patience": 0,
        "max_length": 1024,
    }
    merged = {**steps, **own.get("training", {}), **variant.get("training", {}), **training}
    return {"objective": objective, **own, **variant, "training": merged}


def objectives() -> list[str]:
    """Those that the trainer has and that there are rows for."""
    from ft_pipeline.training.objectives.registry import OBJECTIVES

    return [name for name in OBJECTIVES if name in _EXPERIMENTS]


def make(item: dict[str, Any]) -> dict[str, int]:
    """Write the training data of `objective` for the model in `base` to `folder`; the number of its rows."""
    from ft_pipeline.job import Job
    from ft_pipeline.training import training_data
    from ft_pipeline.training.token_rows import read_split

    base, folder, objective = Path(item["base"]), Path(item["folder"]), item["objective"]
    rows = [pair for pair in read_rows(shipped_files(), 500) if _length(pair) < item.get("letters", 500)]
    rows = rows[: TRAIN + VALIDATION]
    inputs = {"base_model": base, "conversations": _write(folder / "conversations", _conversations(rows))}
    table = _TABLE_OF.get(objective)
    if table:
        inputs[table] = _TABLES[table](folder / table, base, rows[:TRAIN])
    out, work = folder / "data", folder / "work"
    for path in (out, work):
        path.mkdir(parents=True, exist_ok=True)
    settings = validated(experiment(objective, {"technique": "lora"}))
    config = {"experiment": settings.model_dump(mode="json"), "data": SHARES}
    training_data.run(Job("training_data", config, inputs, out, work, "cpu", Silent()))
    return {split: len(read_split(out, split)) for split in ("train", "validation")}


def validated(settings: dict[str, Any]) -> Any:
    """The ExperimentSettings, with a learning rate: above the default, so that a few steps change the losses."""
    from ft_pipeline.settings.experiment import ExperimentSettings
    from ft_pipeline.settings.learning_rates import default_learning_rate

    made = ExperimentSettings.model_validate(settings)
    if made.training.learning_rate is not None:
        return made
    rate = _RATE_FACTOR * default_learning_rate(made.technique, made.objective, params=0)
    return made.model_copy(update={"training": made.training.model_copy(update={"learning_rate": rate})})


def _length(pair: Sequence[dict[str, str]]) -> int:
    return sum(len(turn["content"]) for turn in pair)


def _conversations(pairs: Conversations) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{number:064x}",
            "split": "train" if number < len(pairs) - VALIDATION else "validation",
            "group": str(number),
            "messages": messages,
            "table": "alpaca",
            "file": "support.jsonl",
            "row": number + 1,
        }
        for number, messages in enumerate(pairs)
    ]


def _preferences(folder: Path, base: Path, pairs: Conversations) -> Path:
    """Pairs whose rejected answer is that of another question."""
    others = [*pairs[1:], pairs[0]]
    rows = [
        {
            **_origin(number, "pairs.jsonl"),
            "prompt_messages": question[:1],
            "chosen": question[1:],
            "rejected": other[1:],
        }
        for number, (question, other) in enumerate(zip(pairs, others, strict=True))
    ]
    return _write(folder, rows)


def _thumbs(folder: Path, base: Path, pairs: Conversations) -> Path:
    """Two answers to each question: its own with a thumb up, and that of another one with a thumb down."""
    others = [*pairs[1:], pairs[0]]
    rows = [
        {
            **_origin(2 * number + down, "feedback.jsonl"),
            "prompt_messages": question[:1],
            "completion": answered[1:],
            "label": not down,
        }
        for number, (question, other) in enumerate(zip(pairs, others, strict=True))
        for down, answered in enumerate((question, other))
    ]
    return _write(folder, rows)


def _texts(folder: Path, base: Path, pairs: Conversations) -> Path:
    texts = [f"{question['content']} {answer['content']}" for question, answer in pairs]
    return _write(folder, [{**_origin(number, "help.jsonl"), "text": text} for number, text in enumerate(texts)])


def _distributions(folder: Path, base: Path, pairs: Conversations) -> Path:
    """Answers with random distributions in which the right token is the most likely one."""
    import numpy as np

    from ft_pipeline.evaluation.scoring.teacher_distributions import _ROWS
    from ft_pipeline.models.chat import prompt_and_target
    from ft_pipeline.models.load import load_tokenizer

    tokenizer = load_tokenizer(base)
    draw = np.random.default_rng(0)
    rows = []
    for number, messages in enumerate(pairs):
        _, target = prompt_and_target(tokenizer, messages)
        ids = tokenizer(target, add_special_tokens=False)["input_ids"]
        tokens = [[token, *_others(draw, token, len(tokenizer))] for token in ids]
        shares = -np.sort(-draw.dirichlet(np.ones(TOP_K + 1), len(ids)), axis=1)
        rows.append(
            {
                **_origin(number, "inbox.jsonl"),
                "sample": 0,
                "table": "unlabelled",
                "split": None,
                "prompt_messages": [{**turn} for turn in messages[:1]],
                "tools": None,
                "answer": messages[1]["content"],
                "target_ids": ids,
                "top_ids": [token for top in tokens for token in top],
                "top_log_probabilities": np.log(shares[:, :TOP_K]).flatten().tolist(),
                "rest": shares[:, TOP_K].tolist(),
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=_ROWS), folder / "rows.parquet")
    return folder


def _others(draw: Any, token: int, vocabulary: int) -> list[int]:
    """TOP_K - 1 other tokens."""
    drawn = draw.choice(vocabulary - 1, TOP_K - 1, replace=False).tolist()
    return [other + (other >= token) for other in drawn]


def _origin(number: int, file: str) -> dict[str, Any]:
    return {"id": f"{number:064x}", "file": file, "row": number + 1}


def _write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(json.loads(json.dumps(rows))), folder / "rows.parquet")
    return folder


_TABLE_OF = {"dpo": "preferences", "kto": "feedback", "cpt": "text", "distill": "teacher_distributions"}
"""Objective → the table that it trains on besides conversations."""
_TABLES = {"preferences": _preferences, "feedback": _thumbs, "text": _texts, "teacher_distributions": _distributions}
"""Table → the function that writes it to a folder for a model, from conversations."""
