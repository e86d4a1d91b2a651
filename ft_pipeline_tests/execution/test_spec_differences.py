"""The reasons in a plan: which key of a spec differs, and how."""

from typing import Any

import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.execution.spec_differences import describe, differences
from ft_pipeline.store.spec import Spec

BEFORE = Spec(
    "adapter",
    {"training_data": ("training_data", "a" * 64)},
    {"training": {"learning_rate": 1e-3, "max_steps": 5}, "prompt": "x" * 100, "types": ["q8"], "packing": True},
    {"code": "3", "peft": "0.21.0"},
    seed=1,
)


def change(**changes: Any) -> list[Any]:
    return differences(BEFORE.to_json(), BEFORE.to_json() | changes)


@pytest.mark.parametrize(
    ("changes", "text", "by_version"),
    [
        ({"versions": {"code": "4", "peft": "0.21.0"}}, "code version 3 → 4", True),
        ({"versions": {"code": "3", "peft": "0.22.0"}}, "peft 0.21.0 → 0.22.0", True),
        ({"versions": {"code": "3"}}, "peft 0.21.0 → absent", True),
        ({"seed": 2}, "seed 1 → 2", False),
        (
            {"inputs": {"training_data": {"kind": "training_data", "fingerprint": "b"}}},
            "new data in training_data",
            False,
        ),
        (
            {"config": {**BEFORE.config, "training": {"learning_rate": 2e-3, "max_steps": 5}}},
            "settings changed: training.learning_rate 0.001 → 0.002",
            False,
        ),
        ({"config": {**BEFORE.config, "packing": None}}, "settings changed: packing true → null", False),
        ({"config": {**BEFORE.config, "prompt": "y"}}, "settings changed: prompt", False),
        ({"config": {**BEFORE.config, "types": ["q4"]}}, "settings changed: types", False),
        ({"config": {**BEFORE.config, "rope": {"scale": 2}}}, "settings changed: rope (new)", True),
        (
            {"config": {**BEFORE.config, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5}},
            "settings changed: a absent → 1, b absent → 2, c absent → 3 and 2 more",
            True,
        ),
    ],
)
def test_each_key_that_differs_is_named_with_short_values(changes: Any, text: str, by_version: bool) -> None:
    found = change(**changes)
    assert describe(found) == text
    assert any(difference.comes_with_the_version for difference in found) == by_version


def test_equal_specs_do_not_differ() -> None:
    assert change() == [] and describe([]) == ""


def test_an_upgrade_without_a_plan_says_that_there_is_nothing_to_do() -> None:
    done = CliRunner().invoke(app, ["upgrade"])
    assert isinstance(done.exception, UserError) and "add --plan" in str(done.exception)
