"""comparison.json as records: what is written and read, and the questions that every rule asks of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.decide.build import RULES
from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.desk import Desk
from ft_pipeline.decide.documents import comparison_of as claims_of
from ft_pipeline.decide.old_documents import FIRST_RULES
from ft_pipeline.decide.recommend import recommend as decide_recommend
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.metrics.definitions import METRICS
from ft_pipeline.evaluation.model_kinds import ModelKind
from ft_pipeline_tests.decide.claims import compared as comparison
from ft_pipeline_tests.evaluation.recorded import PROJECTS, comparison_of, document_of
from ft_pipeline_tests.evaluation.scored import CONFIG, losses, scored
from ft_pipeline_tests.evaluation.sweeps import compared

SINCE = {
    "seeds",
    "learning_curves",
    "cost_per_call",
    "computed_in",
    "passages",
    "break_even",
    "quantization_noise",
    "forgetting",
}
"""Keys that documents of some older version lack."""


def row(name: str, kind: ModelKind, value: float, **options: Any) -> Row:
    return Row(**{"name": name, "kind": kind, "scores": {"loss": Score(value, value, value)}, **options})


@pytest.mark.parametrize("name", sorted(path.name for path in PROJECTS.iterdir() if path.is_dir()))
def test_a_document_is_written_as_it_was_read(name: str) -> None:
    document = json.dumps(document_of(name), indent=2, ensure_ascii=False)
    again = claims_of(json.loads(document)).to_json()
    assert json.dumps(again, indent=2, ensure_ascii=False) == document


def test_sweeps_are_written_as_they_were_read(tmp_path: Path) -> None:
    sweep = compared(tmp_path, lora=1.2, lora_seed1=1.0, lora_at25=2.2, lora_at50=1.6)
    assert sweep.seeds and sweep.learning_curves
    document = json.dumps(sweep.to_json())
    assert json.dumps(claims_of(json.loads(document)).to_json()) == document


def test_quantization_errors_keep_the_order_of_the_manifest(tmp_path: Path) -> None:
    error = {
        "first": "base",
        "second": "base_4bit",
        "kl": 0.3,
        "first_loss": 3.0,
        "second_loss": 3.2,
        "difference": 0.2,
    }
    line = dict(sorted(error.items()))
    inputs = {"a/prompt_baseline": scored(tmp_path / "a", {"plain": {"kind": "base", "losses": losses(2.0)}})}
    document = compare(inputs, CONFIG, {"qlora": {"noise": [line]}}).to_json()
    assert json.dumps(document["quantization_noise"]) == json.dumps({"qlora": [line]})


def test_a_document_of_an_older_version_is_read() -> None:
    document = comparison_of("too_few_rows")
    older = {key: value for key, value in document.items() if key not in {*SINCE, "rules"}}
    older["rows"] = [{key: value for key, value in row.items() if key not in SINCE} for row in document["rows"]]
    read = claims_of(older)
    assert (read.seeds, read.learning_curves, read.break_even) == ((), (), ())
    assert read.rules == FIRST_RULES and claims_of(document).rules == RULES
    assert {(row.cost_per_call, row.computed_in, row.passages) for row in read.rows} == {(None, None, 0)}
    assert decide_recommend(Desk(read, read, {}, 20))["decision"]


@pytest.mark.parametrize(
    "document", [{}, [], {"rows": 5}, {**comparison_of("too_few_rows"), "rows": [{}]}, {"version": 2}]
)
def test_what_is_not_a_comparison_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match=r"not written by this version|validation error"):
        claims_of(document)  # type: ignore[arg-type]


def test_rows_are_ranked_by_any_metric() -> None:
    by_length = {"scores": {"length_ratio": Score(0.5, 0.5, 0.5)}}
    rows = [row("long", "base", 2.0), row("short", "prompt", 1.0), row("unmeasured", "prompt", 0, **by_length)]
    rows[0] = rows[0].model_copy(update={"scores": {**rows[0].scores, "length_ratio": Score(1.2, 1.2, 1.2)}})
    ranked = comparison(rows, [])
    assert [entry.name for entry in ranked.ranked()] == ["short", "long"]
    assert [entry.name for entry in ranked.ranked("length_ratio")] == ["long", "unmeasured"]  # 1 is best
    with pytest.raises(KeyError):
        ranked.ranked("unknown")


def test_the_best_baseline_with_and_without_passages() -> None:
    rows = (row("a/merged", "merged", 1.0), row("looked_up", "prompt", 1.5, passages=2), row("base", "base", 2.0))
    found = [comparison(rows, []).best_prompt(passages=passages) for passages in (None, True, False)]
    assert [baseline.name if baseline else None for baseline in found] == ["looked_up", "looked_up", "base"]
    assert comparison(rows[:1], []).best_prompt() is None
    assert METRICS["loss"] == comparison([], []).metric()
