"""The trainings that benchmarks/training.py compares, on a tiny model; and what its results say of the machine."""

import sys
from functools import partial
from pathlib import Path

import pytest

QUESTIONS = (
    "Where is my order?",
    "Can I return the shoes?",
    "Do you sell mugs?",
    "When do you open on Sunday morning?",
)


def test_trl_like_for_like_minimizes_the_same_loss_as_ours(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and start are the same: the loss is equal before the first update, and nearly equal after it."""
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")  # ours has no padding: in bf16, that may change products
    from contenders import ours, trl_defaults, trl_like_for_like

    rows = [
        [{"role": "user", "content": f"{question} {number}"}, {"role": "assistant", "content": f"Yes, {number}. " * 4}]
        for number in range(6)
        for question in QUESTIONS
    ]
    own, same, defaults = (
        train(tiny_base, rows) for train in (partial(ours, "qlora"), trl_like_for_like, trl_defaults)
    )
    assert same["first_loss"] == pytest.approx(own["first_loss"], rel=1e-4)
    assert same["mean_loss"] == pytest.approx(own["mean_loss"], rel=1e-2)
    assert defaults["mean_loss"] == pytest.approx(own["mean_loss"], rel=0.2)
    assert own["mean_loss"] != own["first_loss"] and own["tokens"] == same["tokens"] == defaults["tokens"]


def test_the_results_describe_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import machine

    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    facts = machine.describe_compute()
    assert facts["emulated_by"]["ATEN_CPU_CAPABILITY"] == "avx2" and "ONEDNN_MAX_CPU_ISA" not in facts["emulated_by"]
    assert facts["compute_dtype"] in ("float32", "bfloat16") and facts["cores"] >= 1 and facts["torch"]
    if sys.platform == "linux":
        assert facts["cpu"] not in ("", "x86_64") and isinstance(facts["instruction_sets"], list)
