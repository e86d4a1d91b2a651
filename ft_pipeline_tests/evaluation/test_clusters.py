"""A comparison of conversations of which several are alike: their clusters are the unit of all that it says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, scored
from ft_pipeline_tests.evaluation.sliced import COUNT, shop_talks, spread, write_talks

PATTERNS = 30


def compared(folder: Path, patterns: int | None, **config: Any) -> Comparison:
    """Compare a tuned model with its base on 90 conversations of so many patterns, of which it leads in two thirds."""
    before, of_pattern = 3 + spread(2), np.arange(COUNT) % PATTERNS
    losses = (before - np.where(of_pattern % 3, 1.0, -1.0) - spread(1)).tolist()
    tuned = {"kind": "merged", "losses": losses, "correct": CORRECT, "technique": "lora"}
    inputs = {
        "a/prompt_baseline": scored(
            folder / "base", {"plain": {"kind": "base", "losses": before.tolist(), "correct": CORRECT}}
        ),
        "a/scores": scored(folder / "tuned", {"merged": tuned}),
    }
    talks = shop_talks()
    if patterns is not None:
        talks = [{**talk, "cluster": talks[number % patterns]["id"]} for number, talk in enumerate(talks)]
    out = folder / "out"
    out.mkdir()
    build_comparison(inputs, {**CONFIG, **config}, out, conversations=write_talks(folder / "conversations", talks))
    return Comparison.model_validate(json.loads((out / "comparison.json").read_text()))


def lead(comparison: Comparison) -> Claim:
    (claim,) = (claim for claim in comparison.of_kind("lead") if claim.measure == comparison.primary)
    return claim


def test_leads_are_over_clusters(tmp_path: Path) -> None:
    apart, alike = (compared(tmp_path / name, count) for name, count in (("apart", None), ("alike", PATTERNS)))
    assert (apart.clusters, alike.clusters) == (None, PATTERNS)
    assert (apart.test_rows, alike.test_rows) == (COUNT, COUNT)
    assert lead(alike).value == pytest.approx(lead(apart).value)
    widths = [claim.high - claim.low for claim in (lead(apart), lead(alike))]
    assert widths[1] == pytest.approx(np.sqrt(COUNT / PATTERNS) * widths[0], rel=0.1)
    assert alike.conversations == f"{COUNT} conversations in {PATTERNS} clusters of like questions"
    assert "clusters" not in apart.to_json()


def test_answers_keep_their_cluster_for_what_is_computed_of_them_later(tmp_path: Path) -> None:
    compared(tmp_path, PATTERNS)
    samples = pq.read_table(tmp_path / "out" / "samples.parquet", columns=["group", "cluster"]).to_pylist()
    assert {sample["cluster"] for sample in samples} == {f"{number:03}" for number in range(PATTERNS)}
    assert all(int(sample["group"]) % PATTERNS == int(sample["cluster"]) for sample in samples)


def test_slices_count_conversations_and_are_compared_by_clusters(tmp_path: Path) -> None:
    alike = compared(tmp_path / "alike", PATTERNS)
    claims = {claim.scope: claim for claim in alike.of_kind("slice_lead")}
    assert claims["file alpaca/mails.jsonl"].count == COUNT // 2  # of 15 patterns
    assert "tag vip" not in claims  # of 10
    few = compared(tmp_path / "few", 12, slices={"vip": {"tag": "vip", "must_hold": True, "margin": 0.1}})
    assert not few.of_kind("slice_lead")
    assert {(claim.because, claim.count) for claim in few.of_kind("slice")} == {("alike", COUNT // 3)}


def test_all_rows_of_one_pattern_show_no_spread(tmp_path: Path) -> None:
    one = compared(tmp_path, 1)
    assert one.has_few_clusters(50)
    assert (lead(one).low, lead(one).high) == (None, None)
