"""What the asset `comparison` passes on: names of base models, the metric that decides, contenders."""

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.defs.evaluation import _about_contenders, _deciding_metric
from ft_pipeline.defs.scoring_specs import base_names
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec


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
