"""The comparison document: names, intervals, pairs, what is left out, item by item."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.notes import shown_metrics
from ft_pipeline.decide.plots import score_picture
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.metrics.definitions import METRICS
from ft_pipeline_tests.decide.rules import leads
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, ITEMS, PARTS, losses, scored


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    rows = {
        "plain": {"kind": "base", "losses": losses(2.0), "correct": CORRECT},
        "few_shot": {"kind": "prompt", "losses": losses(1.7), "tokens": 400},
    }
    return scored(tmp_path / "baseline", rows)


def tuned(tmp_path: Path, name: str = "lora", level: float = 1.2, **options: Any) -> Path:
    row = {"losses": losses(level), "technique": "lora", "correct": CORRECT}
    return scored(tmp_path / name, {kind: {**row, "kind": kind} for kind in ("adapter", "merged")}, **options)


def names(comparison: Comparison) -> list[str]:
    return [row.name for row in comparison.rows]


def test_the_document_lists_all_rows_with_the_best_first(tmp_path: Path, baseline: Path) -> None:
    inputs = {"lora/prompt_baseline": baseline, "lora/scores": tuned(tmp_path)}
    comparison = compare(inputs, CONFIG)
    assert names(comparison) == ["lora/adapter", "lora/merged", "few_shot", "base"]
    assert (comparison.test_rows, comparison.test_items, comparison.primary_metric) == (ITEMS, ITEMS, "loss")
    best, prompted = comparison.rows[0], comparison.rows[2]
    assert best.kind == "adapter"
    assert (best.experiment, prompted.experiment) == ("lora", None)
    assert (best.trainable_params, prompted.trainable_params) == (100, 0)
    assert best.scores["loss"].low < best.scores["loss"].value < best.scores["loss"].high
    assert prompted.prompt_tokens_per_call == 400
    assert json.loads(json.dumps(comparison.to_json())) == comparison.to_json()
    assert compare(dict(reversed(inputs.items())), CONFIG) == comparison


def test_paired_differences_cover_all_rows_and_shared_metrics(tmp_path: Path, baseline: Path) -> None:
    comparison = compare({"lora/prompt_baseline": baseline, "lora/scores": tuned(tmp_path)}, CONFIG)
    having = {metric: sum(metric in row.scores for row in comparison.rows) for metric in METRICS}
    found = {metric: len(leads(comparison, metric)) for metric in METRICS}
    assert found == {metric: rows * (rows - 1) // 2 for metric, rows in having.items()}
    assert found["general_accuracy"] == 3
    assert [claim.measure for claim in leads(comparison)][:6] == ["loss"] * 6
    assert all(claim.value >= 0 for claim in leads(comparison))
    first, lead = leads(comparison)[:2]
    assert (first.row, first.rival, first.value) == ("lora/adapter", "lora/merged", 0.0)
    assert (lead.row, lead.rival) == ("lora/adapter", "few_shot")
    assert lead.value == pytest.approx(0.5)
    assert lead.low is not None and lead.high is not None and lead.low < 0.5 < lead.high


def test_rows_are_ranked_by_the_direction_of_the_metric(tmp_path: Path) -> None:
    rows = {
        "plain": {"kind": "base", "losses": losses(2.0), "chrf": [60.0] * ITEMS},
        "few_shot": {"kind": "prompt", "losses": losses(1.7), "chrf": [40.0] * ITEMS},
    }
    inputs = {"a/prompt_baseline": scored(tmp_path / "baseline", rows)}
    comparison = compare(inputs, CONFIG)
    [lead] = leads(comparison, "chrf")
    unseen = 1 - 0.025 ** (1 / ITEMS)  # as many answers of the base model may be empty
    assert (lead.row, lead.value, lead.low) == ("base", 20.0, pytest.approx(20.0 - 60 * unseen, abs=0.1))
    assert names(comparison) == ["few_shot", "base"]
    by_chrf = compare(inputs, {**CONFIG, "primary_metric": "chrf"})
    assert names(by_chrf) == ["base", "few_shot"]
    shown = list(shown_metrics(comparison))
    assert list(shown_metrics(by_chrf)) == ["chrf", *(name for name in shown if name != "chrf")]
    assert shown[0] == "loss"
    assert "| base | 60.0" in comparison_markdown(by_chrf).replace("  ", " ")


def test_a_shared_base_model_gives_its_rows_once(tmp_path: Path, baseline: Path) -> None:
    shared = {"a/prompt_baseline": baseline, "b/prompt_baseline": baseline, "b/scores": tuned(tmp_path)}
    assert names(compare(shared, CONFIG)) == ["b/adapter", "b/merged", "few_shot", "base"]
    other = scored(tmp_path / "other", {"plain": {"kind": "base", "losses": losses(1.0)}})
    comparison = compare({"a/prompt_baseline": baseline, "b/prompt_baseline": other}, CONFIG)
    assert names(comparison) == ["base@b", "few_shot", "base"]
    assert {row.name: (row.source, row.source_row) for row in comparison.rows} == {
        "base@b": ("b/prompt_baseline", "plain"),
        "few_shot": ("a/prompt_baseline", "few_shot"),
        "base": ("a/prompt_baseline", "plain"),
    }


def test_the_champion_is_listed_in_addition_to_its_own_row(tmp_path: Path, baseline: Path) -> None:
    mine = tuned(tmp_path)
    inputs = {"lora/prompt_baseline": baseline, "lora/scores": mine, "champion/scores": mine}
    config = {**CONFIG, "champion": {"name": "lora/merged", "experiment": "lora"}}
    comparison = compare(inputs, config)
    assert sorted(names(comparison)) == ["base", "champion", "few_shot", "lora/adapter", "lora/merged"]
    [champion] = [row for row in comparison.rows if row.kind == "champion"]
    assert (champion.experiment, champion.source_row) == ("lora", "merged")
    prompted = {"lora/prompt_baseline": baseline, "champion/prompt_baseline": baseline}
    config = {**CONFIG, "champion": {"name": "few_shot", "experiment": None}}
    assert sorted(names(compare(prompted, config))) == ["base", "champion", "few_shot"]


def test_rows_of_another_evaluation_are_left_out_and_listed(tmp_path: Path, baseline: Path) -> None:
    stale = tuned(tmp_path, "stale", parts={**PARTS, "test_rows": "older"})
    inputs = {"new/prompt_baseline": baseline, "new/scores": tuned(tmp_path), "old/scores": stale}
    comparison = compare(inputs, CONFIG)
    assert "old/adapter" not in names(comparison)
    assert [(left_out.name, left_out.differs_in) for left_out in comparison.left_out] == [
        ("old/adapter", ["test_rows"]),
        ("old/merged", ["test_rows"]),
    ]
    assert "Left out: old/merged was scored in another evaluation (test_rows differs)" in comparison_markdown(
        comparison
    )
    old = json.loads((stale / "scores.json").read_text(encoding="utf-8"))["rows"][0]["fingerprint"]
    assert sorted(names(compare(inputs, {**CONFIG, "fingerprint": old}))) == ["old/adapter", "old/merged"]


def test_rows_scored_on_different_items_are_refused(tmp_path: Path, baseline: Path) -> None:
    rows = {"adapter": {"kind": "adapter", "losses": losses(1)[:-1]}}
    with pytest.raises(UserError, match="x/adapter was not scored on the items of base"):
        compare({"a/prompt_baseline": baseline, "x/scores": scored(tmp_path / "x", rows)}, CONFIG)


def test_a_comparison_without_scores_is_refused() -> None:
    with pytest.raises(UserError, match="no scores to compare yet"):
        compare({}, CONFIG)


def test_changes_show_the_worst_regressions(tmp_path: Path, baseline: Path) -> None:
    better = losses(1.7)
    better[3] += 2
    better[8] += 1
    better[9] -= 1
    rows = {"adapter": {"kind": "adapter", "losses": better, "technique": "lora"}}
    comparison = compare({"a/prompt_baseline": baseline, "a/scores": scored(tmp_path / "a", rows)}, CONFIG)
    changes = comparison.changes
    assert changes is not None
    assert (changes.before, changes.after) == ("few_shot", "a/adapter")
    assert (changes.improved, changes.unchanged, changes.regressed) == (1, ITEMS - 3, 2)
    assert [(change.item, round(change.gain, 6)) for change in changes.worst] == [("003:1", -2.0), ("008:1", -1.0)]
    assert changes.worst[0].after.model_dump() == {"value": pytest.approx(better[3]), "answer": "adapter says 3"}
    assert compare({"a/prompt_baseline": baseline}, CONFIG).changes is None


def test_quantization_noise_is_listed_below_the_table(tmp_path: Path, baseline: Path) -> None:
    line = {"first": "base", "second": "base_4bit", "kl": 0.3, "first_loss": 3.0, "second_loss": 3.2, "difference": 0.2}
    inputs = {"lora/prompt_baseline": baseline, "lora/scores": tuned(tmp_path)}
    comparison = compare(inputs, CONFIG, {"lora": {"took": None, "noise": None}, "qlora": {"noise": [line]}})
    assert comparison.to_json()["quantization_noise"] == {"qlora": [line]}
    assert "| qlora | base | base_4bit | 0.3000 | 3.0000 | 3.2000 | +0.2000 |" in comparison_markdown(comparison)
    assert "Quantization noise" in comparison_markdown(comparison)
    assert "Quantization noise" not in comparison_markdown(compare(inputs, CONFIG))


@pytest.mark.usefixtures("rendered")
def test_the_comparison_is_written_as_json_and_markdown_and_plotted(tmp_path: Path, baseline: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    summary = build_comparison({"lora/prompt_baseline": baseline, "lora/scores": tuned(tmp_path)}, CONFIG, out)
    assert summary["best"] == "lora/adapter"
    comparison = Comparison.model_validate(json.loads((out / "comparison.json").read_text(encoding="utf-8")))
    table = (out / "comparison.md").read_text(encoding="utf-8")
    assert table == comparison_markdown(comparison)
    assert table.splitlines()[2].startswith("| lora/adapter | 1.")
    png = score_picture(comparison)
    assert png.startswith(b"\x89PNG")
    assert len(png) < 60_000


def test_comparisons_import_no_heavy_library() -> None:
    names = ("decide.build", "decide.recommend", "decide.plots")
    modules = ", ".join(f"ft_pipeline.{name}" for name in names)
    heavy = "{'torch', 'transformers', 'lm_eval', 'peft', 'matplotlib', 'dagster'}"
    code = f"import sys, {modules}; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
