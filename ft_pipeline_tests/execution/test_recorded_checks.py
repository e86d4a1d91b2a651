"""A step reads the recorded checks of its inputs again before it uses them."""

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.recorded_checks import failed_checks, recorded_checks, require_passed
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec


def recorded(store: ArtifactStore, summary: dict) -> Artifact:
    draft = store.begin(Spec("conversations", config=summary))
    (draft.out / "x").write_text("x")
    return store.commit(draft, summary)


def test_an_artifact_whose_blocking_checks_passed_is_accepted(store: ArtifactStore) -> None:
    artifact = recorded(
        store,
        {
            "checks": {"not_empty": {"passed": True}, "style": {"passed": False, "blocking": False, "message": "meh"}},
            "audit": {"checks": {"single_bos": {"passed": True, "value": 1, "message": ""}}},
        },
    )
    assert set(recorded_checks(artifact)) == {"not_empty", "style", "single_bos"}
    assert failed_checks(artifact) == []
    assert require_passed(artifact) is artifact


def test_failed_checks_are_reported_with_their_reasons(store: ArtifactStore) -> None:
    artifact = recorded(
        store,
        {
            "checks": {"max_quarantined": {"passed": False, "message": "32 % of alpaca are quarantined, 10 % allowed"}},
            "audit": {"checks": {"no_over_length": {"passed": False, "value": 3, "message": "3 rows are too long"}}},
        },
    )
    assert failed_checks(artifact) == [
        "no_over_length: 3 rows are too long",
        "max_quarantined: 32 % of alpaca are quarantined, 10 % allowed",
    ]
    with pytest.raises(UserError, match=r"conversations failed the check `no_over_length`: .* \(and 1 more\)"):
        require_passed(artifact)


def test_an_artifact_without_checks_passes(store: ArtifactStore) -> None:
    assert failed_checks(recorded(store, {"rows": 1})) == []
