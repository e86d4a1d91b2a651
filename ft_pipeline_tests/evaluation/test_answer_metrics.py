"""Declared answer formats and custom metrics, from project.yaml to the comparison."""

import json
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.notes import shown_metrics
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics, has_format
from ft_pipeline.evaluation.metrics.custom_metrics import CustomMetric, resolve_metrics
from ft_pipeline.evaluation.scoring import prompt_baseline
from ft_pipeline.evaluation.scoring.fingerprint import differences
from ft_pipeline.settings.checks import FunctionMetric
from ft_pipeline.settings.evaluation import AnswerFormat
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.yaml_file import read_settings
from ft_pipeline_tests.decide.rules import leads
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


def custom_metric(function: str, **more: Any) -> dict[str, FunctionMetric]:
    return {"mine": FunctionMetric(function=function, **more)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "quality").mkdir()
    (tmp_path / "quality" / "checks.py").write_text(CHECKS, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def f(:", encoding="utf-8")
    return tmp_path


def measured(root: Path, function: str, answer: str) -> float:
    custom = resolve_metrics(root, custom_metric(f"quality.checks.{function}"))
    return AnswerMetrics(None, json.loads(json.dumps(custom))).score_answer(ITEM, answer)["mine"]


def test_a_function_of_the_project_folder_gets_the_parameters_it_names(root: Path) -> None:
    assert measured(root, "words", "one two") == 2.0
    assert measured(root, "repeats", "Yes, LF-1.") == 1.0
    assert measured(root, "repeats", "Yes.") == 0.0


@pytest.mark.parametrize(
    ("function", "answer", "message"),
    [
        ("breaks", "", r"Metric mine \(quality.checks.breaks\) failed in line 17 of checks.py on the answer ''.*Zero"),
        ("hungry", "x", r"has the unknown parameter 'model'. Use only reference, answer, messages"),
        ("endless", "x", "returned inf for the answer 'x'"),
    ],
)
def test_the_error_of_a_failing_function_names_it(root: Path, function: str, answer: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        measured(root, function, answer)


def test_a_missing_function_is_reported_before_anything_runs(root: Path) -> None:
    for function, message in (
        (
            "quality.checks.tone",
            r"quality/checks.py has no function 'tone'. Add it or use one of: words, repeats, breaks",
        ),
        ("broken.f", "broken.py cannot be read as Python"),
        ("nowhere.f", "the project folder has no nowhere.py, and no package 'nowhere' is installed"),
    ):
        with pytest.raises(UserError, match=message):
            resolve_metrics(root, custom_metric(function))


def test_an_installed_function_is_identified_by_its_version(root: Path) -> None:
    metric = resolve_metrics(root, custom_metric("sacrebleu.sentence_bleu", lower_is_better=True))["mine"]
    assert metric["source"] is None
    assert metric["distribution"].startswith("sacrebleu==")
    with pytest.raises(UserError, match="has the unknown parameter 'hypothesis'"):
        CustomMetric("mine", metric)


@pytest.mark.parametrize(
    ("answer_format", "valid", "invalid"),
    [
        (AnswerFormat(type="json"), ['{"a": 1}', " [1, 2]\n", "3"], ["{'a': 1}", "", "{} x", "```json\n{}\n```"]),
        (AnswerFormat(type="json", keys=["a", "b"]), ['{"b": 1, "a": null}'], ['{"a": 1}', '["a", "b"]', '"ab"']),
        (AnswerFormat(type="regex", pattern=r"\d+ days?"), [" 3 days ", "1 day"], ["in 3 days", "3 days.", ""]),
    ],
)
def test_answers_are_checked_against_the_declared_format(
    answer_format: AnswerFormat, valid: list[str], invalid: list[str]
) -> None:
    assert [has_format(text, answer_format.model_dump()) for text in valid] == [True] * len(valid)
    assert [has_format(text, answer_format.model_dump()) for text in invalid] == [False] * len(invalid)


@pytest.mark.parametrize(
    ("lines", "message"),
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
def test_an_invalid_setting_is_named(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(f"name: x\nevaluation:\n  {lines}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_settings(tmp_path / "p.yaml", ProjectSettings)
    assert message in str(caught.value)


def test_promotion_accepts_only_metrics_that_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    metrics = "evaluation: {metrics: {tone: {function: checks.tone}}}\n"
    path.write_text(f"name: x\n{metrics}promotion: {{metric: tone}}\n", encoding="utf-8")
    assert read_settings(path, ProjectSettings).promotion.metric == "tone"
    path.write_text("name: x\npromotion: {metric: loss}\n", encoding="utf-8")  # of older projects
    assert read_settings(path, ProjectSettings).promotion.metric == "loss"
    path.write_text("name: x\npromotion: {metric: format_valid}\n", encoding="utf-8")
    message = (
        r"Choose one of auto, nats_per_byte, chrf, rouge_l, exact_match, call_names, call_arguments, call_order, "
        r"or set evaluation\.answer_format"
    )
    with pytest.raises(UserError, match=message):
        read_settings(path, ProjectSettings)


def evaluation(**more: Any) -> dict[str, Any]:
    return {"max_new_tokens": 8, "batch_size": 4, "max_test_rows": None, "seed": 0, **more}


def test_custom_metrics_and_formats_reach_the_comparison(make_job: JobMaker, root: Path, tmp_path: Path) -> None:
    prompting = {"variants": {"few_shot": {"system_prompt": None, "few_shot": 2}}}
    custom = resolve_metrics(root, custom_metric("quality.checks.words", lower_is_better=True))
    settings = evaluation(answer_format=AnswerFormat(type="regex", pattern="(?s)(Sorry|Please|The).*").model_dump())
    job = make_job("prompt_baseline", "own", prompting=prompting, evaluation=settings, custom_metrics=custom)
    rows = prompt_baseline.run(job)["rows"]
    assert {"exact_match", "format_valid", "mine"} <= rows[0]["scores"].keys()
    plain = make_job("prompt_baseline", "plain", prompting=prompting)
    plain_rows = prompt_baseline.run(plain)["rows"]
    assert rows[0]["fingerprint"] != plain_rows[0]["fingerprint"]
    parts = [
        json.loads((scored_job.out / "scores.json").read_text("utf-8"))["evaluation"] for scored_job in (job, plain)
    ]
    assert differences(*parts) == ["measures"]

    config = {"primary_metric": "mine"}
    (tmp_path / "compared").mkdir()
    build_comparison({"a/prompt_baseline": job.out}, config, tmp_path / "compared")
    document = json.loads((tmp_path / "compared" / "comparison.json").read_text(encoding="utf-8"))
    comparison = Comparison.model_validate(document)
    assert comparison.metric("mine").lower_is_better is True
    best, worst = comparison.rows
    assert best.scores["mine"].value <= worst.scores["mine"].value
    lead = leads(comparison)[0]
    assert lead.measure == "mine" and lead.value is not None and lead.value >= 0
    shown = shown_metrics(comparison)
    assert "exact_match" not in shown
    assert {"format_valid", "mine"} <= shown.keys()
    with pytest.raises(UserError, match="'mine' is not in these scores"):
        compare({"a/prompt_baseline": plain.out}, config)


def test_a_format_that_no_reference_answer_has_is_refused(make_job: JobMaker) -> None:
    settings = evaluation(answer_format=AnswerFormat(type="json").model_dump())
    job = make_job("prompt_baseline", prompting={"variants": {}}, evaluation=settings)
    with pytest.raises(UserError, match=r"none of the 4 reference answers has this format\. The first is '"):
        prompt_baseline.run(job)
