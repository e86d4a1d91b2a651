"""Names on disk, and names that users refer to, do not change."""

import json

import pytest

from ft_pipeline_tests.persisted import GOLDEN, collect


@pytest.mark.slow
def test_persisted_names_and_golden_values_are_unchanged() -> None:
    golden, current = json.loads(GOLDEN.read_text(encoding="utf-8")), json.loads(json.dumps(collect()))
    assert current.keys() == golden.keys()
    for section, expected in golden.items():
        assert current[section] == expected, f"{section} changed; persisted.py says what to do if that is intended"
    assert json.dumps(current["comparisons"]) == json.dumps(golden["comparisons"]), "the order of the keys changed"
