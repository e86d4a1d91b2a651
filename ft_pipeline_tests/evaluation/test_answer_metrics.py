"""Declared formats and the user's own metrics, from project.yaml to the comparison."""

import json
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.compare import build_comparison, compare
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics, has_format
from ft_pipeline.evaluation.metrics.custom_metrics import CustomMetric, resolve
from ft_pipeline.evaluation.scoring import prompt_baseline
from ft_pipeline.evaluation.scoring.fingerprint import differences
from ft_pipeline.settings.project import AnswerFormat, MetricSettings, ProjectSettings
from ft_pipeline.settings.yaml_file import read_settings
from ft_pipeline_tests.evaluation.conftest import JobMaker

CHECKS = '''
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Length:
    words: int

def words(answer):
    """How many words."""
    return Length(len(answer.split())).words

def repeats(reference: str, answer: str, messages, least: int = 1) -> bool:
    return messages[-1]["content"] in answer

def breaks(reference, answer):
    return 1 / len(answer)

def hungry(reference, answer, model):
    return 0

def endless(answer):
    return float("inf")
'''
ITEM = Item(
    "a:1", "a", ({"role": "user", "content": "LF-1"}, {"role": "assistant", "content": "Thanks, LF-1 is on its way."})
)


def one(function: str, **more: Any) -> dict[str, MetricSettings]:
    return {"mine": MetricSettings(function=function, **more)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "quality").mkdir()
    (tmp_path / "quality" / "checks.py").write_text(CHECKS, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def f(:", encoding="utf-8")
    return tmp_path


def measured(root: Path, function: str, answer: str) -> float:
    custom = resolve(root, one(f"quality.checks.{function}"))
    return AnswerMetrics(None, json.loads(json.dumps(custom))).of_answer(ITEM, answer)["mine"]


def test_a_function_of_the_project_folder_is_asked_by_name(root: Path) -> None:
    assert measured(root, "words", "one two") == 2.0
    assert measured(root, "repeats", "Yes, LF-1.") == 1.0
    assert measured(root, "repeats", "Yes.") == 0.0


@pytest.mark.parametrize(
    ("function", "answer", "said"),
    [
        ("breaks", "", r"Metric mine \(quality.checks.breaks\) failed in line 17 of checks.py on the answer ''.*Zero"),
        ("hungry", "x", r"has the unknown parameter 'model'. Use only reference, answer, messages"),
        ("endless", "x", "returned inf for the answer 'x'"),
    ],
)
def test_a_function_that_fails_is_named(root: Path, function: str, answer: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        measured(root, function, answer)


def test_what_is_not_there_is_said_before_anything_runs(root: Path) -> None:
    for function, said in (
        ("quality.checks.tone", r"quality/checks.py has no function 'tone'. Add it or use one of: words, repeats"),
        ("broken.f", "broken.py cannot be read as Python"),
        ("nowhere.f", "the project folder has no nowhere.py, and no package 'nowhere' is installed"),
    ):
        with pytest.raises(UserError, match=said):
            resolve(root, one(function))


def test_an_installed_function_stands_for_itself_by_its_version(root: Path) -> None:
    found = resolve(root, one("sacrebleu.sentence_bleu", lower_is_better=True))["mine"]
    assert found["source"] is None
    assert found["distribution"].startswith("sacrebleu==")
    with pytest.raises(UserError, match="has the unknown parameter 'hypothesis'"):
        CustomMetric.load("mine", found)


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        (AnswerFormat(type="json"), ['{"a": 1}', " [1, 2]\n", "3"], ["{'a': 1}", "", "{} x", "```json\n{}\n```"]),
        (AnswerFormat(type="json", keys=["a", "b"]), ['{"b": 1, "a": null}'], ['{"a": 1}', '["a", "b"]', '"ab"']),
        (AnswerFormat(type="regex", pattern=r"\d+ days?"), [" 3 days ", "1 day"], ["in 3 days", "3 days.", ""]),
    ],
)
def test_formats(wanted: AnswerFormat, good: list[str], bad: list[str]) -> None:
    assert [has_format(text, wanted.model_dump()) for text in good] == [True] * len(good)
    assert [has_format(text, wanted.model_dump()) for text in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("answer_format: {type: regex, pattern: '('}", "'(', which is not a valid regular expression"),
        ("answer_format: {type: regex}", "`type: regex` and `pattern` need each other"),
        ("answer_format: {type: regex, pattern: a, keys: [a]}", "`keys` needs `type: json`"),
        ("metrics: {chrf: {function: a.b}}", "the metric name 'chrf' is reserved"),
        ("metrics: {answer: {function: a.b}}", "the metric name 'answer' is reserved"),
        ("metrics: {My-Tone: {function: a.b}}", "the metric name 'My-Tone' is invalid. Use at most 40 lowercase"),
        ("metrics: {tone: {function: a}}", "evaluation.metrics.tone.function"),
    ],
)
def test_a_slip_is_named(tmp_path: Path, lines: str, said: str) -> None:
    (tmp_path / "p.yaml").write_text(f"name: x\nevaluation:\n  {lines}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_settings(tmp_path / "p.yaml", ProjectSettings)
    assert said in str(caught.value)


def test_promotion_goes_by_what_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    own = "evaluation: {metrics: {tone: {function: checks.tone}}}\n"
    path.write_text(f"name: x\n{own}promotion: {{metric: tone}}\n", encoding="utf-8")
    assert read_settings(path, ProjectSettings).promotion.metric == "tone"
    path.write_text("name: x\npromotion: {metric: format_valid}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"choose one of loss, chrf, rouge_l, exact_match; format_valid needs"):
        read_settings(path, ProjectSettings)


def evaluation(**more: Any) -> dict[str, Any]:
    return {"max_new_tokens": 8, "batch_size": 4, "max_test_rows": None, "seed": 0, **more}


def test_they_reach_the_comparison(make_job: JobMaker, root: Path, tmp_path: Path) -> None:
    few = {"variants": {"few_shot": {"system_prompt": None, "few_shot": 2}}}
    custom = resolve(root, one("quality.checks.words", lower_is_better=True))
    wanted = evaluation(answer_format=AnswerFormat(type="regex", pattern="(?s)(Sorry|Please|The).*").model_dump())
    job = make_job("prompt_baseline", "own", prompting=few, evaluation=wanted, custom_metrics=custom)
    rows = prompt_baseline.run(job)["rows"]
    assert {"exact_match", "format_valid", "mine"} <= rows[0]["scores"].keys()
    plain = make_job("prompt_baseline", "plain", prompting=few)
    other = prompt_baseline.run(plain)["rows"]
    assert rows[0]["fingerprint"] != other[0]["fingerprint"]
    parts = [json.loads((each.out / "scores.json").read_text("utf-8"))["evaluation"] for each in (job, plain)]
    assert differences(*parts) == ["measures"]

    config = {"bootstrap_resamples": 200, "seed": 0, "primary_metric": "mine"}
    (tmp_path / "compared").mkdir()
    build_comparison({"a/prompt_baseline": job.out}, config, tmp_path / "compared")
    document = json.loads((tmp_path / "compared" / "comparison.json").read_text(encoding="utf-8"))
    comparison = Comparison.from_json(document)
    assert comparison.metric("mine").lower_is_better is True
    best, worst = comparison.rows
    assert best.scores["mine"].value <= worst.scores["mine"].value
    assert comparison.pairs[0].metric == "mine"
    assert comparison.pairs[0].difference >= 0
    shown = comparison.shown_metrics()
    assert "exact_match" not in shown
    assert {"format_valid", "mine"} <= shown.keys()
    with pytest.raises(UserError, match="'mine' is not in these scores"):
        compare({"a/prompt_baseline": plain.out}, config)


def test_a_format_that_no_reference_has_is_a_slip(make_job: JobMaker) -> None:
    wanted = evaluation(answer_format=AnswerFormat(type="json").model_dump())
    job = make_job("prompt_baseline", prompting={"variants": {}}, evaluation=wanted)
    with pytest.raises(UserError, match=r"none of the 4 reference answers has this format\. The first is '"):
        prompt_baseline.run(job)
