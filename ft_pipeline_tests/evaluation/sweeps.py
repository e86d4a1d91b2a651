"""Comparisons with sweep members: other seeds and shares of the rows."""

from pathlib import Path
from typing import Any

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, losses, scored

ROWS = {"lora": 800, "lora.at25": 200, "lora.at50": 400}


def case(folder: Path, *, prompted: float = 1.7, **levels: float) -> dict[str, Path]:
    """levels: losses by experiment, `_` for the dot of a member's name."""
    prompts = {
        "plain": {"kind": "base", "losses": losses(2.5), "correct": CORRECT},
        "few_shot": {"kind": "prompt", "losses": losses(prompted)},
    }
    inputs = {"lora/prompt_baseline": scored(folder / "prompts", prompts)}
    for name, level in levels.items():
        inputs[f"{name.replace('_', '.')}/scores"] = tuned(folder / name, level)
    return inputs


def tuned(folder: Path, level: float, **options: Any) -> Path:
    row = {"technique": "lora", "losses": losses(level), "correct": CORRECT}
    return scored(folder, {kind: {**row, "kind": kind} for kind in ("adapter", "merged")}, **options)


def compared(folder: Path, rows: dict[str, int] | None = None, **levels: Any) -> Comparison:
    known = {name: {"train_rows": count, "took": None} for name, count in (rows or ROWS).items()}
    return compare(case(folder, **levels), CONFIG, known)
