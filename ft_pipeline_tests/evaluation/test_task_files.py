"""The documents of the user's lm-eval tasks, with which training rows are compared."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.evaluation.scoring.task_files import read_task_texts


def write_tasks(folder: Path) -> None:
    (folder / "data").mkdir()
    rows = [{"question": "Who repairs lamps?", "choices": {"text": ["Anna", "Bo"]}, "gold": 1}]
    (folder / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "data" / "b.json").write_text(json.dumps([{"q": "List of one?"}]), encoding="utf-8")
    (folder / "data" / "c.csv").write_text('ask,tell\n"Comma, or not?",Yes\n', encoding="utf-8")
    pq.write_table(pa.table({"ask": ["Columns?"], "score": [1.5]}), folder / "data" / "d.parquet")
    base = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "data/a.jsonl"}}}
    (folder / "_base.yaml").write_text(json.dumps(base), encoding="utf-8")
    tasks = {
        "lamps": "include: _base.yaml\ntask: lamps\nprocess_docs: !function utils.docs\n",
        "lists": "task: lists\ndataset_kwargs: {data_files: [data/b.json, data/c.*]}\n",
        "columns": "task: columns\ndataset_kwargs: {data_files: data/d.parquet}\n",
        "hub": "task: hub\ndataset_path: someone/something\n",
        "all": "group: all\ntask: [lamps, {task: columns}]\n",
        "broken": "task: [",
    }
    for name, text in tasks.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_every_text_of_the_named_tasks_is_read(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    assert read_task_texts(tmp_path, ["lamps"]) == (["Who repairs lamps?", "Anna", "Bo"], [])
    assert read_task_texts(tmp_path, ["lists"]) == (["List of one?", "Comma, or not?", "Yes"], [])
    assert read_task_texts(tmp_path, ["all"]) == (["Who repairs lamps?", "Anna", "Bo", "Columns?"], [])


def test_tasks_whose_documents_are_elsewhere_are_named(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    assert read_task_texts(tmp_path, ["hub", "arc_easy", "columns"]) == (["Columns?"], ["hub", "arc_easy"])
