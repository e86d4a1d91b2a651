"""The documents of the user's lm-eval tasks, with which training rows are compared."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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


def test_labels_and_instructions_of_a_task_are_left_out(tmp_path: Path) -> None:
    rows = [{"instruction": "Is it good or bad?", "text": f"Film {number}"} for number in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "a.yaml").write_text("task: films\ndataset_kwargs: {data_files: a.json}\n", encoding="utf-8")
    assert read_task_texts(tmp_path, ["films"]) == (["Film 0", "Film 1", "Film 2"], [])


def test_compressed_and_tab_separated_documents_are_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"q": "Compressed?"}\n')
    (tmp_path / "b.tsv").write_text("q\tgold\nTabs, or not?\tyes\n", encoding="utf-8")
    (tmp_path / "a.yaml").write_text("task: t\ndataset_kwargs: {data_files: [a.jsonl.gz, b.tsv]}\n", encoding="utf-8")
    assert sorted(read_task_texts(tmp_path, ["t"])[0]) == ["Compressed?", "Tabs, or not?", "yes"]


@pytest.mark.parametrize(
    "kwargs",
    [
        "{data_files: /etc/hosts}",
        "{data_files: ''}",
        "[1]",
        "{data_files: folder}",
        "{data_files: broken.parquet}",
        "{data_files: broken.jsonl}",
        "{data_files: [good.jsonl, nothing.jsonl]}",
    ],
)
def test_a_task_that_cannot_be_read_is_named(tmp_path: Path, kwargs: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "good.jsonl").write_text('{"q": "Good?"}\n', encoding="utf-8")
    (tmp_path / "broken.jsonl").write_text('{"q": "Good?"}\n{"q": \n', encoding="utf-8")
    (tmp_path / "broken.parquet").write_text("PAR1", encoding="utf-8")
    (tmp_path / "a.yaml").write_text(f"task: t\ninclude: a.yaml\ndataset_kwargs: {kwargs}\n", encoding="utf-8")
    assert read_task_texts(tmp_path, ["t"])[1] == ["t"]
