"""What the asset `comparison` passes on: names of base models, the metric that decides, contenders."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.step import SpecContext, spec_of_its_asset
from ft_pipeline.steps.base_model import base_model_spec
from ft_pipeline.steps.shared.compared_scores import _about_contenders, _deciding_metric, _must_keep
from ft_pipeline.steps.shared.scoring_specs import (
    base_names,
    baseline_spec,
    evaluation_config,
    probes_config,
    teacher_spec,
)
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.evaluation.moving_rows import load_steps


def put_base(store: ArtifactStore, content: str, **config: Any) -> str:
    draft = store.begin(Spec("base_model", {}, {"content": content, **config}))
    (draft.out / "weights").write_text(content, encoding="utf-8")
    return store.commit(draft, {}).fingerprint


def test_two_base_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A folder whose content changed is another model of the same name; a revision is a part of the name."""
    store = ArtifactStore(tmp_path)
    old, new = (put_base(store, content, model="/models/ours", revision=None) for content in ("old", "new"))
    hub = put_base(store, "hub", model="org/model", revision="abc")
    names = base_names(store, [old, new, hub, hub])
    assert names == {old: f"/models/ours ({old[:8]})", new: f"/models/ours ({new[:8]})", hub: "org/model@abc"}


@pytest.mark.parametrize("metric", ["loss", "auto", "chrf"])
def test_loss_of_older_projects_means_auto_and_is_said(metric: str) -> None:
    settings = ProjectSettings.model_validate({"name": "x", "promotion": {"metric": metric}})
    config = _deciding_metric(settings)
    assert config["primary_metric"] == ("chrf" if metric == "chrf" else "auto")
    assert config.get("notice") == ("`promotion.metric: loss` now means `auto`." if metric == "loss" else None)


def test_the_metric_that_checks_answers_is_passed_on() -> None:
    metrics = {"right": {"function": "checks.right", "decides": True}, "tone": {"function": "checks.tone"}}
    settings = ProjectSettings.model_validate({"name": "x", "evaluation": {"metrics": metrics}})
    assert _deciding_metric(settings)["decides"] == "right"
    metrics["tone"]["decides"] = True
    with pytest.raises(ValueError, match="right and tone have `decides: true`"):
        ProjectSettings.model_validate({"name": "x", "evaluation": {"metrics": metrics}})


def context_of(folder: Path, **evaluation: Any) -> SpecContext:
    """A project with these settings, and a file of two questions."""
    (folder / "data" / "general").mkdir(parents=True, exist_ok=True)
    for name in ("questions", "texts"):
        (folder / "data" / "general" / f"{name}.jsonl").write_text("", encoding="utf-8")
    (folder / "p.jsonl").write_text('{"query": "Who?"}\n{"query": "When?"}\n', encoding="utf-8")
    (folder / "project.yaml").write_text(yaml.safe_dump({"name": "x", "evaluation": evaluation}), encoding="utf-8")
    return SpecContext(Project(folder), ArtifactStore(folder / "store"))


def test_without_probes_specs_are_those_of_older_versions(tmp_path: Path) -> None:
    context = context_of(tmp_path, tasks=["arc_easy"])
    assert (_must_keep(context), probes_config(context)) == ({}, {})
    assert evaluation_config(context)["evaluation"] == {
        "max_new_tokens": None,
        "batch_size": 16,
        "max_test_rows": None,
        "answer_format": None,
        "metrics": {},
        "tasks": ["arc_easy"],
        "include_path": None,
        "task_documents": None,
        "seed": 0,
    }


def test_only_the_questions_of_probes_are_scored_with_and_the_rules_are_compared_with(tmp_path: Path) -> None:
    """So a changed rule or margin needs no scoring."""
    tasks = ["arc_easy", {"task": "ours", "must_hold": True, "margin": 0.02}]
    context = context_of(tmp_path, tasks=tasks, probes={"p": {"file": "p.jsonl", "expect": "refuse"}})
    config = evaluation_config(context)
    assert config["evaluation"]["tasks"] == ["arc_easy", "ours"] and "probes" not in config | config["evaluation"]
    assert probes_config(context) == {"probes": {"p": [{"query": "Who?"}, {"query": "When?"}]}}
    found = _must_keep(context)
    digest = found["probes"]["p"].pop("digest")
    assert found == {
        "probes": {"p": {"expect": "refuse", "must_not": None, "refusal": None, "margin": 0.05}},
        "must_hold": {"ours": 0.02},
    }
    other = context_of(tmp_path, probes={"p": {"file": "p.jsonl", "must_not": "x", "margin": 0.1}})
    assert probes_config(other) == probes_config(context)
    assert _must_keep(other)["probes"]["p"]["digest"] == digest


@pytest.mark.parametrize(
    ("own", "ignored"),
    [
        ({"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.0, "min_length": 0}, None),
        ({"repetition_penalty": 1.05, "suppress_tokens": [4]}, ["repetition_penalty", "suppress_tokens"]),
    ],
)
def test_only_models_whose_own_settings_changed_greedy_answers_are_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any], ignored: list[str] | None
) -> None:
    """Older versions obeyed a penalty of the model while scoring, but not llama.cpp or Ollama."""
    load_steps(monkeypatch)
    context = context_of(tmp_path)
    draft = context.store.begin(spec_of_its_asset(base_model_spec(context, "own/base", None)))
    (draft.out / "generation_config.json").write_text(json.dumps(own), encoding="utf-8")
    base = context.store.commit(draft, {"params": 9})
    inputs = {"conversations": ("conversations", "a" * 64), "base_model": base.reference}
    (tmp_path / "project.yaml").write_text("name: x\nteacher: {model: own/base}\n", encoding="utf-8")
    as_teacher = {**inputs, "base_model": ("base_model", "b" * 64)}
    with_teacher = SpecContext(Project(tmp_path), context.store)
    for spec in (baseline_spec(context, inputs, {"variants": {}}), teacher_spec(with_teacher, as_teacher)):
        assert spec is not None and spec.config.get("ignored_while_decoding") == ignored


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("q.jsonl", "'q.jsonl', named in project.yaml, does not exist"),
        ("data", "data is not a file. Name a JSONL file"),
    ],
)
def test_a_file_of_probes_that_is_not_there_is_reported(tmp_path: Path, file: str, message: str) -> None:
    context = context_of(tmp_path, probes={"p": {"file": file, "expect": "answer"}})
    with pytest.raises(UserError, match=message):
        probes_config(context)


def test_a_check_may_decide_and_its_labels_keep_their_order() -> None:
    metrics = {"topic": {"type": "classification", "labels": ["low", "high"], "decides": True}}
    settings = ProjectSettings.model_validate({"name": "x", "evaluation": {"metrics": metrics}})
    config = _deciding_metric(settings)
    assert (config["decides"], config["labels"]) == ("topic", {"topic": ["low", "high"]})
    assert "labels" not in _deciding_metric(ProjectSettings(name="x"))


def test_what_ends_and_what_answers_today_is_passed_on() -> None:
    contenders = [
        {"name": "today", "answers": "a.jsonl", "incumbent": True, "ends": "2027-01-14"},
        {"name": "newer", "base_model": "org/newer"},
    ]
    settings = ProjectSettings.model_validate({"name": "x", "evaluation": {"contenders": contenders}})
    assert _about_contenders(settings) == {"today": {"incumbent": True, "ends": "2027-01-14"}}
