"""Costs per call, training time from the manifests, and after how many calls it has paid."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.findings.costs import describe_break_even
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.evaluation.comparison import training_facts
from ft_pipeline.evaluation.comparison.costs import training_time
from ft_pipeline.evaluation.scoring.scorer import shared_prefix
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.decide.rules import desk_of
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, losses, scored
from ft_pipeline_tests.tiny import tiny_tokenizer

HOUR = {"seconds": 1800.0, "gpu_hours": 1.0}


def compared(
    tmp_path: Path,
    *,
    seconds: float = 0.1,
    training: Any = HOUR,
    shared: int = 0,
    runs: tuple[str, str] = ("one", "one"),
    rows: int | None = None,
    **prices: float,
) -> Comparison:
    """A prompt of 400 tokens and 0.5 s against an adapter of 40 tokens and `seconds`; both write 10 tokens.

    runs: those in which prompts and tuned models were scored. rows: that people labeled, and it was trained on.
    """
    baseline = {
        "plain": {"kind": "base", "losses": losses(2.0), "correct": CORRECT},
        "few_shot": {"kind": "prompt", "losses": losses(1.7), "tokens": 400, "shared": shared},
    }
    tuned = {
        "adapter": {"kind": "adapter", "losses": losses(1.2), "technique": "lora", "seconds": seconds},
        "merged": {"kind": "merged", "losses": losses(1.3), "technique": "lora", "seconds": 0.5},
    }
    inputs = {"a/prompt_baseline": scored(tmp_path / "base", baseline), "a/scores": scored(tmp_path / "a", tuned)}
    for folder, run in zip(inputs.values(), runs, strict=True):
        (folder / "manifest.json").write_text(json.dumps({"run": {"run_id": run}}), encoding="utf-8")
    facts = {"took": training, **({"labels": rows} if rows else {})}
    return compare(inputs, {**CONFIG, "prices": prices}, {"a": facts})


def test_break_even_is_computed_from_the_seconds_per_call(tmp_path: Path) -> None:
    found = compared(tmp_path)
    adapter, merged = found.break_even
    assert (adapter.tuned, adapter.untouched) == ("a/adapter", "few_shot")
    assert adapter.saved.prompt_tokens_per_call == 360
    assert adapter.calls_by_time == 9000  # an hour of the device at 0.4 s
    assert (merged.calls_by_time, merged.calls_by_cost, adapter.calls_by_cost) == (None, None, None)
    assert [row.cost_per_call for row in found.rows] == [None] * 4
    assert {row.name: row.training for row in found.rows}["few_shot"] is None
    assert describe_break_even(adapter) == (
        "a/adapter reads 360 fewer prompt tokens per call than few_shot; its training took 30 min. By time it is paid "
        "back after 9,000 calls (0.4 s saved per call, measured here with shared prompt parts read once)."
    )
    assert "30 min. By time it is never paid back (0 s saved per call, measured" in describe_break_even(merged)
    text = comparison_markdown(found)
    assert "| a/adapter | few_shot | 360 | 0.40 | 30 min | 9,000 |" in text
    assert "| a/merged | few_shot | 360 | 0.00 | 30 min | never |" in text
    assert any("after 9,000 calls" in reason for reason in recommend(desk_of(found, {}, 20))["reasons"])


def test_fewer_prompt_tokens_are_not_said_to_cost_less(tmp_path: Path) -> None:
    """A call of the prompt may be the faster one, since what all its calls share is read once."""
    slower = compared(tmp_path / "slower", seconds=0.6)
    said = " ".join(recommend(desk_of(slower, {}, 20))["reasons"])
    assert "400 prompt tokens per call, a/adapter 40 (90% fewer)" in said
    assert "By time it is never paid back (0.1 s more per call" in said
    assert not [words for words in ("costs less", "saves nothing", "By cost") if words in said]
    dear = compared(tmp_path / "dear", seconds=0.6, gpu_hour=3.6).break_even[0]
    assert describe_break_even(dear).endswith(
        "By cost it is never paid back (3.60 for the training, 0.0001 more per call)."
    )
    saved = dear.saved.model_copy(update={"seconds_per_call": None, "cost_per_call": None})
    untimed = dear.model_copy(update={"saved": saved})
    assert describe_break_even(untimed).endswith("its training took 30 min. When it is paid back is not known.")


def test_seconds_of_two_runs_are_not_compared(tmp_path: Path) -> None:
    """One of them may have been beside other work: then a call seems to save time, or to cost it."""
    by_time = compared(tmp_path / "time", runs=("one", "two"), gpu_hour=3.6).break_even[0]
    assert (by_time.calls_by_time, by_time.calls_by_cost, by_time.saved.seconds_per_call) == (None, None, None)
    assert describe_break_even(by_time).endswith("its training took 30 min. When it is paid back is not known.")
    prices = {"gpu_hour": 3.6, "input_per_million": 10.0}
    assert compared(tmp_path / "tokens", runs=("one", "two"), **prices).break_even[0].calls_by_cost == 1000


def test_the_teachers_bill_is_a_part_of_what_must_be_paid_back(tmp_path: Path) -> None:
    prices = {"gpu_hour": 3.6, "input_per_million": 10.0, "output_per_million": 100.0}
    alone = compared(tmp_path / "alone", **prices).break_even[0]
    with_teacher = compared(tmp_path / "distilled", training={**HOUR, "teacher": 3.6}, **prices).break_even[0]
    assert alone.training.cost == pytest.approx(3.6) and alone.training.teacher is None
    assert with_teacher.training.cost == pytest.approx(7.2)
    assert alone.calls_by_cost is not None and with_teacher.calls_by_cost == 2 * alone.calls_by_cost
    assert "7.20 for the training with 3.60 for the teacher" in describe_break_even(with_teacher)


def test_labels_are_a_part_of_what_must_be_paid_back(tmp_path: Path) -> None:
    prices = {"gpu_hour": 3.6, "input_per_million": 10.0, "output_per_million": 100.0}
    alone = compared(tmp_path / "alone", rows=30, **prices).break_even[0]
    labeled = compared(tmp_path / "labeled", rows=30, label=0.24, **prices).break_even[0]
    assert (alone.training.cost, alone.training.labels) == (pytest.approx(3.6), None)
    assert (labeled.training.cost, labeled.training.labels) == (pytest.approx(10.8), pytest.approx(7.2))
    assert alone.calls_by_cost is not None and labeled.calls_by_cost == 3 * alone.calls_by_cost
    assert "10.80 for the training with 7.20 for labels" in describe_break_even(labeled)
    both = compared(tmp_path / "both", rows=30, label=0.24, training={**HOUR, "teacher": 1.0}, **prices).break_even[0]
    assert "with 1.00 for the teacher and 7.20 for labels" in describe_break_even(both)
    unwritten = compared(tmp_path / "unwritten", label=0.24, **prices).break_even[0]
    assert unwritten.training.cost == pytest.approx(3.6), "it learned from no row that people wrote"


def test_a_row_is_labeled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is repeated, in how many texts it is split, and in how many phases it is learned from."""
    phases = {
        "first": {"id": ["a", "a", "b", "c"], "source": ["human", "human", "human", "distilled"]},
        "second": {"id": ["b", "d", "e"], "source": ["preferred", "preferred", "text"]},
    }
    for name, rows in phases.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(rows), tmp_path / name / "train.parquet")
    adapters = [SimpleNamespace(inputs={"training_data": (name,)}) for name in phases]
    store: Any = SimpleNamespace(require=lambda name: SimpleNamespace(path=tmp_path / name))
    monkeypatch.setattr(training_facts, "phase_adapters", lambda *_: adapters)
    assert training_facts._labels(store, adapters[-1]) == 3  # type: ignore[arg-type]


def test_attempts_that_did_not_finish_are_told(tmp_path: Path) -> None:
    entry = compared(tmp_path, training={"seconds": 2400.0, "gpu_hours": 1.0, "unfinished": 600.0}).break_even[0]
    assert "its training took 40 min, with 10 min of attempts that did not finish." in describe_break_even(entry)


def test_a_prefix_that_all_calls_share_has_the_price_of_cached_tokens(tmp_path: Path) -> None:
    prices = {"input_per_million": 10.0, "output_per_million": 0.0}
    plain = compared(tmp_path / "plain", **prices).row("few_shot")
    cached = compared(tmp_path / "cached", shared=300, cached_input_per_million=1.0, **prices).row("few_shot")
    assert plain is not None and plain.cost_per_call == pytest.approx(400 * 10 / 1e6)
    assert cached is not None and cached.cost_per_call == pytest.approx((100 * 10 + 300 * 1) / 1e6)


def test_what_all_prompts_begin_with_is_counted() -> None:
    tokenizer = tiny_tokenizer()
    prompts = [f"Please send your order number. {question}" for question in ("Where?", "When?", "Why?")]
    token_ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    equal = [len(set(tokens)) == 1 for tokens in zip(*token_ids, strict=False)]
    assert shared_prefix(tokenizer, prompts) == equal.index(False) > 3
    assert shared_prefix(tokenizer, ["yes", "no"]) == 0


def test_break_even_is_computed_from_token_prices(tmp_path: Path) -> None:
    found = compared(tmp_path, gpu_hour=3.6, input_per_million=10.0, output_per_million=100.0)
    costs = {row.name: row.cost_per_call for row in found.rows}
    assert costs == pytest.approx({"a/adapter": 1.4e-3, "a/merged": 1.4e-3, "few_shot": 5e-3, "base": 1.4e-3})
    adapter = found.break_even[0]
    assert adapter.training.cost == pytest.approx(3.6)
    assert adapter.calls_by_cost == 1000
    assert describe_break_even(adapter).endswith(
        "By cost it is paid back after 1,000 calls (3.60 for the training, 0.0036 saved per call)."
    )
    assert "| cost / 1,000 answers |" in comparison_markdown(found)


def test_a_price_per_gpu_hour_is_used_if_tokens_have_no_price(tmp_path: Path) -> None:
    found = compared(tmp_path, gpu_hour=3.6)
    assert found.rows[0].cost_per_call == pytest.approx(1e-4)
    assert found.break_even[0].calls_by_cost == found.break_even[0].calls_by_time == 9000


def test_a_training_with_unknown_time_is_left_out(tmp_path: Path) -> None:
    assert compared(tmp_path, training=None).break_even == []


def artifact(store: ArtifactStore, kind: str, name: str, run: dict[str, Any], **inputs: Artifact) -> Artifact:
    spec = Spec(kind, {key: each.reference for key, each in inputs.items()}, {"name": name})
    draft = store.begin(spec)
    (draft.out / "file.txt").write_text(name, encoding="utf-8")
    return store.commit(draft, {}, run)


def test_training_time_counts_every_phase_once(tmp_path: Path) -> None:
    """cpt, merged; then an sft adapter on it, and a dpo adapter that goes on from that one."""
    store = ArtifactStore(tmp_path / "store")
    base = artifact(store, "base_model", "base", {"seconds": 900})
    cpt = artifact(store, "adapter", "cpt", {"seconds": 100, "gpus": ["a", "b"]}, base_model=base)
    cpt_merged = artifact(store, "merged_model", "cpt", {"seconds": 10}, adapter=cpt, base_model=base)
    second = artifact(store, "base_model", "second", {"seconds": 900}, merged_model=cpt_merged)
    sft = artifact(store, "adapter", "sft", {"seconds": 40, "gpus": []}, base_model=second)
    dpo = artifact(store, "adapter", "dpo", {"seconds": 5}, base_model=second, start=sft)
    merged = artifact(store, "merged_model", "dpo", {"seconds": 1}, adapter=dpo, base_model=second)
    scores = artifact(store, "scores", "dpo", {"seconds": 900}, adapter=dpo, merged_model=merged, base_model=second)
    assert training_time(store, scores) == {"seconds": 156, "gpu_hours": pytest.approx(256 / 3600)}
    lost = {"seconds": 10, "unfinished": {"attempts": 2, "seconds": 50.0, "device_seconds": 100.0}}
    again = artifact(store, "adapter", "again", lost, base_model=base)
    found = training_time(store, artifact(store, "scores", "again", {}, adapter=again, base_model=base))
    assert found == {"seconds": 60, "gpu_hours": pytest.approx(110 / 3600), "unfinished": 50}
    unknown = artifact(store, "adapter", "old", {}, base_model=base)
    assert training_time(store, artifact(store, "scores", "old", {}, adapter=unknown, base_model=base)) is None
