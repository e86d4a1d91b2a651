"""Names on disk, and names that users refer to, stay as they are."""

import json

import pytest

from ft_pipeline_tests.persisted import GOLDEN, collect


@pytest.mark.slow
def test_persisted_names_and_golden_values_are_unchanged() -> None:
    golden, found = json.loads(GOLDEN.read_text(encoding="utf-8")), json.loads(json.dumps(collect()))
    assert found.keys() == golden.keys()
    for section, expected in golden.items():
        assert found[section] == expected, f"{section} changed; persisted.py says what to do if that is meant"
    assert json.dumps(found["comparisons"]) == json.dumps(golden["comparisons"]), "the order of the keys changed"
