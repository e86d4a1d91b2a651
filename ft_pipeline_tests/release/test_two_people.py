"""`promotion.two_people`: nobody moves the champion alone."""

import os
from pathlib import Path

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.release import champion, requests
from ft_pipeline.release.manual_promotion import NotPromoted, rollback
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store import provenance
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline_tests.forked_process import ForkedProcess
from ft_pipeline_tests.release.material import Material

SETTINGS = PromotionSettings(metric="loss", forgetting_margin=0.05, min_test_rows=20, two_people=True)


@pytest.fixture
def material(tmp_path: Path) -> Material:
    return Material(tmp_path)


def acting_as(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operating system say that this process is somebody's."""
    monkeypatch.setattr(provenance, "_name_of", lambda uid: name)


def ask(material: Material, comparison: Artifact, *, force: bool = False, reason: str = "") -> requests.MoveRequest:
    _, is_new, request = material.decide_and_promote(comparison, SETTINGS, "lora", force=force, reason=reason)
    assert not is_new and request is not None
    return request


def test_one_person_asks_and_another_one_approves(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    acting_as("ada", monkeypatch)
    request = ask(material, material.compare(material.train(2.0)))
    assert champion.current(material.store.root) is None
    assert (request.sequence, request.by, request.name) == (1, "ada", "lora/merged")
    assert (waiting := requests.open_request(material.store.root)) and waiting.sequence == 1
    acting_as("bob", monkeypatch)
    record = requests.approve(material.store.root, 1)
    assert (record.name, record.by, record.requested_by, record.request) == ("lora/merged", "bob", "ada", 1)
    assert champion.current(material.store.root) == record
    assert requests.open_request(material.store.root) is None


def test_nobody_approves_their_own_request(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    acting_as("ada", monkeypatch)
    ask(material, material.compare(material.train(2.0)))
    monkeypatch.setenv("LOGNAME", "bob")
    with pytest.raises(UserError, match="ada made request 1, so another person must approve it"):
        requests.approve(material.store.root, 1)
    assert champion.current(material.store.root) is None


def test_the_rules_hold_for_a_request(material: Material) -> None:
    comparison = material.compare(material.train(3.2))
    with pytest.raises(NotPromoted, match="does not beat few_shot"):
        ask(material, comparison)
    request = ask(material, comparison, force=True, reason="tone")
    assert request.promotion.forced and request.promotion.evidence["lacks"]


def test_the_same_model_is_asked_for_once(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    assert [ask(material, comparison).sequence for _ in range(2)] == [1, 1]
    assert len(requests.ledger(material.store.root).paths()) == 1


def test_a_request_of_before_another_move_is_not_carried_out(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting_as("ada", monkeypatch)
    comparison = material.compare(material.train(2.0))
    ask(material, comparison)
    alone = SETTINGS.model_copy(update={"two_people": False})
    material.promote(comparison, alone, "lora")
    acting_as("bob", monkeypatch)
    with pytest.raises(UserError, match=r"There is no open request 1\. No request is open"):
        requests.approve(material.store.root, 1)


def test_a_rollback_needs_one_person(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an emergency, one person is enough: two had approved the model that comes back."""
    acting_as("ada", monkeypatch)
    for loss in (2.0, 1.5):
        ask(material, material.compare(material.train(loss)), force=True, reason="tone")
        acting_as("bob", monkeypatch)
        requests.approve(material.store.root, len(requests.ledger(material.store.root).paths()))
        acting_as("ada", monkeypatch)
    restored = rollback(material.store, None, "complaints")
    assert restored.restores == 1 and restored.requested_by is None and restored.by == "ada"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_of_the_system_is_another_person(material: Material) -> None:
    """The id of the process counts, whatever the environment says."""
    ask(material, material.compare(material.train(2.0)))
    for folder in (material.store.root, *material.store.root.parents[:4]):
        folder.chmod(0o777)
    for path in material.store.root.rglob("*"):
        path.chmod(0o777)
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from ft_pipeline.release import requests\n"
        "os.setuid(65534)\n"
        "print(requests.approve(Path(sys.argv[1]), 1).by)"
    )
    process = ForkedProcess(program, str(material.store.root), LOGNAME="root", USER="root")
    output, errors = process.communicate()
    assert output.strip() == "nobody", errors
