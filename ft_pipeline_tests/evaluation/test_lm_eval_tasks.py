"""Tasks by name: the user's lm-eval YAML files, from prompt_baseline and scores to the comparison."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from lm_eval import evaluator
from lm_eval.tasks import manager

from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring import prompt_baseline, tuned_scores
from ft_pipeline.evaluation.scoring.task_files import copy_task_files, hash_files
from ft_pipeline.job import Job
from ft_pipeline_tests.evaluation.conftest import QUESTIONS, JobMaker

CHOICE = {
    "task": "capitals",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
WRITTEN = {
    **{key: CHOICE[key] for key in ("dataset_path", "dataset_kwargs", "test_split")},
    "task": "written",
    "output_type": "generate_until",
    "doc_to_text": "{{query}}",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5},
    "process_results": "!function own.py",
    "metric_list": [{"metric": "spaces", "aggregation": "mean", "higher_is_better": False}],
}
OWN = "def spaces(doc, results):\n    return {'spaces': results[0].count(' ')}\n"
PERPLEXITY = {**CHOICE, "task": "texts", "output_type": "loglikelihood_rolling", "doc_to_target": "{{query}}"}


def write_tasks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    (folder / "capitals.yaml").write_text(yaml.safe_dump(CHOICE), encoding="utf-8")
    written = yaml.safe_dump(WRITTEN).replace("'!function own.py'", "!function own.spaces")
    (folder / "written.yaml").write_text(written, encoding="utf-8")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    texts = {**PERPLEXITY, "metric_list": [{"metric": "word_perplexity"}]}
    (folder / "texts.yaml").write_text(yaml.safe_dump(texts), encoding="utf-8")
    return folder


def evaluation(*names: str, **more: Any) -> dict[str, Any]:
    settings = {"max_new_tokens": 8, "batch_size": 4, "max_test_rows": 2, "seed": 0}
    return {**settings, "tasks": list(names), **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks")


def rows_of(job: Job) -> dict[str, dict[str, Any]]:
    rows = json.loads((job.out / "scores.json").read_text(encoding="utf-8"))["rows"]
    return {row["name"]: row["scores"] for row in rows}


def test_every_model_runs_the_tasks_and_the_comparison_shows_them(
    make_job: JobMaker, folder: Path, tiny_adapter: Path, tiny_merged: Path, tmp_path: Path
) -> None:
    shared = {"evaluation": evaluation("capitals", "written"), "task_files": hash_files(folder)}
    variants = {name: {"system_prompt": "Be brief.", "few_shot": shots} for name, shots in (("short", 0), ("shot", 1))}
    inputs = {"tasks": folder}
    baseline = make_job("prompt_baseline", "baseline", inputs, prompting={"variants": variants}, **shared)
    prompt_baseline.run(baseline)
    assert [line.split(":")[0] for line in baseline.report.lines].count("lm-eval tasks") == 2  # type: ignore[attr-defined]
    inputs |= {"adapter": tiny_adapter, "merged_model": tiny_merged}
    tuned = make_job("scores", "tuned", inputs, technique="lora", quantization=None, system_prompt=None, **shared)
    tuned_scores.run(tuned)

    assert not (tuned.out / "probes.parquet").exists()  # of projects with probes only
    assert all("probes" not in row for row in json.loads((tuned.out / "scores.json").read_text())["rows"])
    baseline_scores = rows_of(baseline)
    assert {"capitals/acc", "written/spaces"} <= baseline_scores["plain"].keys()
    assert baseline_scores["short"]["capitals/acc"] == baseline_scores["shot"]["capitals/acc"]
    records = pq.read_table(tuned.out / "tasks.parquet").to_pylist()
    merged_records = [record for record in records if record["name"] == "merged" and record["metric"] == "capitals/acc"]
    assert [record["item"] for record in merged_records] == ["capitals:0", "capitals:1"]
    assert rows_of(tuned)["merged"]["capitals/acc"]["value"] == sum(record["value"] for record in merged_records) / 2

    config = {"primary_metric": "loss", "must_hold": {"capitals": 0.05, "written": 0.05}}
    (tmp_path / "out").mkdir()
    build_comparison({"a/prompt_baseline": baseline.out, "a/scores": tuned.out}, config, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert document["metrics"]["written/spaces"]["lower_is_better"] is True
    assert document["metrics"]["capitals/acc"]["lower_is_better"] is False
    tasks = [claim for claim in document["claims"] if claim["kind"] == "task"]
    held = {row["name"]: [task["measure"] for task in tasks if task["row"] == row["name"]] for row in document["rows"]}
    of_tuned = ["capitals/acc", "written/spaces"]
    assert held == {"base": [], "short": [], "shot": [], "a/adapter": of_tuned, "a/merged": of_tuned}
    for row in document["rows"]:
        score = row["scores"]["capitals/acc"]
        assert score["low"] <= score["value"] <= score["high"]
    leads = [claim for claim in document["claims"] if claim["kind"] == "lead" and "value" in claim]
    assert len([lead for lead in leads if lead["measure"] == "capitals/acc"]) == 10
    assert "| capitals/acc (higher is better) |" in comparison_markdown(Comparison.model_validate(document))


def test_task_documents_limits_a_task_to_its_first_documents(
    make_job: JobMaker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the machine described, for which lm-eval runs a dozen programs."""
    monkeypatch.setattr(evaluator, "add_env_info", lambda _: pytest.fail("the machine is described"))
    settings = evaluation("capitals", task_documents=1)
    job = make_job("prompt_baseline", inputs={"tasks": folder}, prompting={"variants": {}}, evaluation=settings)
    prompt_baseline.run(job)
    assert [record["item"] for record in pq.read_table(job.out / "tasks.parquet").to_pylist()] == ["capitals:0"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("capitels", "unknown task 'capitels'. Did you mean 'capitals'"),
        ("knowm", "unknown task 'knowm'. Did you mean 'known'"),
        ("texts", "texts has no metric that is a mean over its documents"),
        ("moved", r"evaluation.tasks \(moved\): FileNotFoundError: .*evaluation.include_path"),
    ],
)
def test_a_task_that_cannot_run_is_reported(
    make_job: JobMaker, folder: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tasks of lm-eval, which are read for a name that the user's tasks lack, are 14,000 files: here, one.
    (folder.parent / "lm_eval").mkdir()
    (folder.parent / "lm_eval" / "known.yaml").write_text(yaml.safe_dump({**CHOICE, "task": "known"}), encoding="utf-8")
    monkeypatch.setattr(manager, "__file__", str(folder.parent / "lm_eval" / "manager.py"))
    moved = {**CHOICE, "task": "moved", "dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}}
    (folder / "moved.yaml").write_text(yaml.safe_dump(moved), encoding="utf-8")
    job = make_job("prompt_baseline", inputs={"tasks": folder}, prompting={"variants": {}}, evaluation=evaluation(name))
    with pytest.raises(UserError, match=message):
        prompt_baseline.run(job)


def test_task_files_are_kept_only_as_they_were_hashed(make_job: JobMaker, folder: Path) -> None:
    (folder / "sub" / "__pycache__").mkdir(parents=True)
    (folder / "sub" / "__pycache__" / "own.pyc").write_bytes(b"x")
    (folder / "sub" / "more.jsonl").write_text("{}", encoding="utf-8")
    files = hash_files(folder)
    assert sorted(files) == [
        "capitals.yaml",
        "own.py",
        "questions.jsonl",
        "sub/more.jsonl",
        "texts.yaml",
        "written.yaml",
    ]
    job = make_job("evaluation_tasks")
    job = Job(job.kind, {"files": files}, {}, job.out, job.work, "cpu", job.report, {"folder": str(folder)})
    assert copy_task_files(job) == {"files": 6}
    assert hash_files(job.out) == files
    (folder / "own.py").write_text("changed", encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.py changed while it was being read"):
        copy_task_files(job)
