"""Run lm-eval on rows of our own: write its tasks as YAML and JSON files, and return its samples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Sample = dict[str, Any]
"""lm-eval's log of one document: `doc`, `arguments`, `resps`, `filtered_resps` and its metrics."""


@dataclass(frozen=True)
class Task:
    """An lm-eval task over local rows."""

    name: str
    rows: Sequence[dict[str, Any]]
    options: dict[str, Any]
    """lm-eval's task keys. `doc_to_…` name columns, so that the text of a row is never parsed as a Jinja template."""


def loss_task(rows: Sequence[dict[str, Any]]) -> Task:
    """Return a task for the log-likelihood of `target` after `context`."""
    options = {"output_type": "loglikelihood", "doc_to_text": "context", "doc_to_target": "target"}
    return Task("reference_loss", rows, {**options, "target_delimiter": "", "metric_list": _metrics("acc")})


def answer_task(rows: Sequence[dict[str, Any]], stop: Sequence[str], max_new_tokens: int) -> Task:
    """Return a task for greedy answers to `context`, cut at the stop strings."""
    generation = {"until": list(stop), "max_gen_toks": max_new_tokens, "do_sample": False, "temperature": 0.0}
    options = {"output_type": "generate_until", "doc_to_text": "context", "doc_to_target": "reference"}
    return Task("answers", rows, {**options, "generation_kwargs": generation, "metric_list": _metrics("bypass")})


def question_task(rows: Sequence[dict[str, Any]]) -> Task:
    """Return a multiple-choice task: which of `choices` is most likely after `context`. `gold` is the correct index."""
    options = {"output_type": "multiple_choice", "doc_to_text": "context", "doc_to_choice": "choices"}
    metrics = _metrics("acc", "acc_norm")
    return Task("general_questions", rows, {**options, "doc_to_target": "gold", "metric_list": metrics})


def text_task(rows: Sequence[dict[str, Any]]) -> Task:
    """Return a task for the log-likelihood of every token of `text`."""
    options = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text"}
    return Task("general_texts", rows, {**options, "metric_list": _metrics("bits_per_byte")})


def run_tasks(lm: Any, tasks: Sequence[Task], folder: Path) -> dict[str, list[Sample]]:
    """Run the tasks on `lm` (an lm-eval LM). Return the samples of each task, in the order of its rows.

    Nothing is downloaded. folder: gets the task files and the cache of `datasets`, so that the cache of another run is
    not read.
    """
    import datasets
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    write_tasks(tasks, folder)
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load([task.name for task in tasks])
    # `simple_evaluate` would also describe the machine, for which it runs a dozen programs, `pip list` among them.
    results = evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)
    assert results is not None
    return {task.name: sorted(results["samples"][task.name], key=lambda sample: sample["doc_id"]) for task in tasks}


def write_tasks(tasks: Sequence[Task], folder: Path) -> None:
    """Write `<name>.yaml` and `<name>.jsonl` per task. `lm_eval --include_path` can run them, too."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        data_file = folder / f"{task.name}.jsonl"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in task.rows)
        data_file.write_text(lines, encoding="utf-8")
        config = {
            "task": task.name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data_file)}, "cache_dir": str(folder / "datasets")},
            "test_split": "test",
            "num_fewshot": 0,
            **task.options,
        }
        (folder / f"{task.name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _metrics(*names: str) -> list[dict[str, str]]:
    """Return a metric list, which lm-eval requires for each task. Our own metrics are computed from the samples."""
    return [{"metric": name} for name in names]
