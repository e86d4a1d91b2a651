"""Whoever can write to the store, but does not have the key, cannot hide a change. With the key, an anchor tells."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.exposure_ledger import Look
from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.erasure.erase import erase
from ft_pipeline.errors import UserError
from ft_pipeline.inbox import decisions
from ft_pipeline.project import Project
from ft_pipeline.release import requests
from ft_pipeline.release.champion import history
from ft_pipeline.release.intact import require_intact
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.asset_pointers import AssetPointers, current_artifact
from ft_pipeline.store.garbage import find_garbage, remove_garbage
from ft_pipeline.store.journal import sign_new_store
from ft_pipeline.store.journal_lines import read_journal
from ft_pipeline.store.signing import create_key, find_key
from ft_pipeline_tests.audit import attacks
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import Shop
from ft_pipeline_tests.audit.tampering import edit

Attack = Callable[[Shop], object]


@pytest.fixture(scope="module")
def signed_once(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A store with two champions, tests of candidates, an accepted answer and an erased row, signed from its start."""
    shop = Shop(tmp_path_factory.mktemp("signed") / "shop")
    shop.write_project()
    sign_new_store(shop.store.root)
    shop.release(shop.materialize())
    shop.release(shop.materialize(learning_rate=2e-3), value=2.2)
    for comparison in ("one", "two"):
        exposure_ledger.write_looks(shop.store.root, [Look(comparison)], ["a", "b"], {"promotion.keeps": 0.8}, "key")
    decisions.record(shop.store.root, "accepted", {"call-1": (1, 1)}, "good", ["traces/day.jsonl"])
    erase(Project(shop.root), shop.raw("alpaca", "support.jsonl"), [5], "request 1")
    return shop


@pytest.fixture
def signed(signed_once: Shop, opened: Path) -> Shop:
    """A copy of it, in which this machine has recorded a change, too."""
    shutil.copytree(signed_once.root, opened)
    shop = Shop(opened)
    decisions.record(shop.store.root, "rejected", {"call-2": (1, 1)}, "", [])
    return shop


def test_an_untouched_signed_store_has_no_finding(signed: Shop, ft: Command, ft_json: Command) -> None:
    document = ft_json("audit", "--verify")
    assert document["findings"] == []
    key = find_key(signed.store.root)
    assert key and document["signatures"]["key"] == key.key_id
    assert document["counted"]["signed_changes"] == len(read_journal(signed.store.root).entries)
    assert f"Signed with the key {key.key_id[:16]}" in ft("audit", "--verify")[1]


def weights_as_redaction(shop: Shop) -> None:
    attacks.dress_as_redaction(attacks.newest(shop, "merged_model"), "model.safetensors", b"backdoor")


def edit_newest_record(shop: Shop) -> None:
    path = sorted((shop.store.root / "champion").glob("*.json"))[-1]
    edit(path, lambda record: record.update(reason="as agreed with legal", by="ceo"))


def edit_record_and_copy(shop: Shop) -> None:
    """Edit the newest record, and its copy with all hashes."""
    edit_newest_record(shop)
    copy = attacks.newest(shop, "champion")
    record = json.loads(sorted((shop.store.root / "champion").glob("*.json"))[-1].read_bytes())
    edit(copy / "manifest.json", lambda manifest: manifest["summary"].update(champion=record), reseal=True)
    attacks.rebuild_all_hashes(shop, copy, "champion.json", json.dumps(record).encode())


def edit_first_record(shop: Shop) -> None:
    edit(shop.store.root / "champion" / "000001.json", lambda record: record.update(forced=False, reason="x"))
    attacks.rechain(shop.store.root / "champion")


def back_date_record(shop: Shop) -> None:
    path = sorted((shop.store.root / "champion").glob("*.json"))[-1]
    edit(path, lambda record: record.update(since="2026-01-01T00:00:00+00:00"))


def replay_record(shop: Shop) -> None:
    """Release the first champion again by a copy of its record, as a rollback would."""
    folder = shop.store.root / "champion"
    record = json.loads((folder / "000001.json").read_bytes())
    (folder / "000003.json").write_text(json.dumps({**record, "sequence": 3}), encoding="utf-8")
    attacks.rechain(folder)


def swap_records(shop: Shop) -> None:
    folder = shop.store.root / "champion"
    first, second = (json.loads((folder / f"00000{n}.json").read_bytes()) for n in (1, 2))
    (folder / "000001.json").write_text(json.dumps({**second, "sequence": 1}), encoding="utf-8")
    (folder / "000002.json").write_text(json.dumps({**first, "sequence": 2}), encoding="utf-8")
    attacks.rechain(folder)


def rebuild_weights(shop: Shop) -> None:
    attacks.rebuild_all_hashes(shop, attacks.newest(shop, "merged_model"), "model.safetensors", b"backdoor")


def rebuild_scores(shop: Shop) -> None:
    attacks.rebuild_all_hashes(shop, attacks.newest(shop, "scores"), "samples.json", b'{"loss": 0.1}')


def put_back_pointer(shop: Shop) -> None:
    """Point `merged_model` at the model before."""
    old = json.loads((attacks.oldest(shop, "merged_model") / "manifest.json").read_bytes())
    path = shop.store.root / "current" / "merged_model@qlora.json"
    edit(path, lambda pointer: pointer.update(fingerprint=old["fingerprint"], manifest_sha256=None))
    first = next(e for e in read_journal(shop.store.root).entries if "current/merged_model@qlora.json" in e.files)
    assert first.files


def drop_pointer(shop: Shop) -> None:
    (shop.store.root / "current" / "scores@qlora.json").unlink()


def drop_artifact(shop: Shop) -> None:
    """Remove the first adapter, and list it as removed by `ft gc`."""
    folder = attacks.oldest(shop, "adapter")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    line = {"kind": "adapter", "fingerprint": manifest["fingerprint"]}
    (shop.store.root / "removed.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    shutil.rmtree(folder)


def swap_artifacts(shop: Shop) -> None:
    """Exchange the content of two adapters."""
    one, two = attacks.oldest(shop, "adapter"), attacks.newest(shop, "adapter")
    one.rename(one.with_name("x"))
    two.rename(one)
    one.with_name("x").rename(two)


def edit_author(shop: Shop) -> None:
    path = attacks.newest(shop, "adapter") / "manifest.json"
    edit(path, lambda manifest: manifest["run"].update(user="ceo"), reseal=True)


def drop_looks(shop: Shop) -> None:
    edit(shop.store.root / "exposures" / "000001.json", lambda entry: entry.update(looks=[]))
    attacks.rechain(shop.store.root / "exposures")


def drop_newest_look(shop: Shop) -> None:
    (shop.store.root / "exposures" / "000002.json").unlink()


def edit_settings_of_newest_look(shop: Shop) -> None:
    edit(shop.store.root / "exposures" / "000002.json", lambda entry: entry.update(settings={"promotion.keeps": 0.5}))


def edit_inbox_decision(shop: Shop) -> None:
    edit(shop.store.root / "inbox" / "000001.json", lambda entry: entry.update(by="ceo", reason="legal"))


def edit_erasure(shop: Shop) -> None:
    edit(shop.store.root / "redactions" / "000001.json", lambda record: record.update(reason="test", models=[]))


def drop_erasure(shop: Shop) -> None:
    (shop.store.root / "redactions" / "000001.json").unlink()


def table_as_redaction(shop: Shop) -> None:
    """Change a table, and add the change to the record of an erasure."""
    folder = attacks.newest(shop, "comparison")
    attacks.dress_as_redaction(folder, "comparison.json", b"{}")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    added = {"kind": "comparison", "fingerprint": manifest["fingerprint"], "files": ["comparison.json"]}
    edit(shop.store.root / "redactions" / "000001.json", lambda record: record["artifacts"].append(added))


def raw_file_as_redaction(shop: Shop) -> None:
    """Change the kept copy of a raw file, with the note that `ft erase` leaves."""
    import zstandard

    copies = (shop.store.root / "blobs").glob("*/*.zst")
    blob = sorted(path for path in copies if not path.with_name(f"{path.stem}.redacted.json").exists())[0]
    content = b'{"instruction": "x", "output": "y"}\n'
    blob.write_bytes(zstandard.compress(content))
    note = {"sha256": attacks.hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    blob.with_name(f"{blob.stem}.redacted.json").write_text(json.dumps(note), encoding="utf-8")


def edit_journal_line(shop: Shop) -> None:
    lines = attacks.journal(shop).read_bytes().splitlines()
    other = json.loads(lines[4])
    other["payload"] = json.loads(lines[5])["payload"]
    lines[4] = json.dumps(other).encode()
    attacks.journal(shop).write_bytes(b"\n".join(lines) + b"\n")


def drop_journal_line(shop: Shop) -> None:
    lines = attacks.journal(shop).read_bytes().splitlines()
    attacks.journal(shop).write_bytes(b"\n".join(lines[:6] + lines[7:]) + b"\n")


def swap_journal_lines(shop: Shop) -> None:
    lines = attacks.journal(shop).read_bytes().splitlines()
    lines[5], lines[6] = lines[6], lines[5]
    attacks.journal(shop).write_bytes(b"\n".join(lines) + b"\n")


def replay_journal_line(shop: Shop) -> None:
    lines = attacks.journal(shop).read_bytes().splitlines()
    attacks.journal(shop).write_bytes(b"\n".join([*lines, lines[7]]) + b"\n")


def cut_journal(shop: Shop) -> None:
    """Drop the newest champion, and the journal from the line on that signed it."""
    lines = attacks.journal(shop).read_bytes().splitlines()
    number = next(e.number for e in read_journal(shop.store.root).entries if "champion/000002.json" in e.files)
    attacks.journal(shop).write_bytes(b"\n".join(lines[: number - 1]) + b"\n")
    attacks.drop_newest_champion(shop)


def remove_signatures(shop: Shop) -> None:
    """Make it look like a store from before signatures, and change what one likes."""
    edit_newest_record(shop)
    attacks.journal(shop).unlink()
    (shop.store.root / "signing_key.pub").unlink()


def sign_with_another_key(shop: Shop) -> None:
    edit_newest_record(shop)
    attacks.resign_everything(shop, create_key_elsewhere(shop))


def replace_public_key(shop: Shop) -> None:
    (shop.store.root / "signing_key.pub").write_bytes(create_key_elsewhere(shop).public_pem)


def empty_journal(shop: Shop) -> None:
    """Change the weights, compute all hashes again, and leave a journal without lines."""
    rebuild_weights(shop)
    attacks.journal(shop).write_bytes(b"")


def link_in_place_of_the_store(shop: Shop) -> None:
    """Let this machine forget the store by another path, and sign it with another key."""
    sign_with_another_key(shop)
    root = shop.store.root
    root.rename(root.with_name("store2"))
    root.symlink_to("store2")


def introduce_the_right_key_last(shop: Shop) -> None:
    """Sign everything with another key, and let it introduce the right one in the last line."""
    key = find_key(shop.store.root)
    assert key
    other = create_key_elsewhere(shop)
    edit_newest_record(shop)
    attacks.resign_everything(shop, other)
    now = read_journal(shop.store.root).entries[-1].time
    attacks.sign_line(shop, {}, "new key", now, key=other, details={"public_key": key.public_pem.decode()})
    (shop.store.root / "signing_key.pub").write_bytes(key.public_pem)


def append_with_another_key(shop: Shop) -> None:
    """Add a champion with another key, which introduces itself."""
    replay_record(shop)
    other = create_key_elsewhere(shop)
    now = read_journal(shop.store.root).entries[-1].time
    attacks.sign_line(shop, {}, "new key", now, key=other, details={"public_key": other.public_pem.decode()})
    path = shop.store.root / "champion" / "000003.json"
    attacks.sign_line(shop, {"champion/000003.json": attacks.sha256_of_file(path)}, "champion", now, key=other)


def record_with_the_number_of_another(shop: Shop) -> None:
    record = json.loads((shop.store.root / "champion" / "000001.json").read_bytes())
    (shop.store.root / "champion" / "000003.json").write_text(json.dumps({**record, "sequence": 2}), encoding="utf-8")


def edit_ids_of_tests(shop: Shop) -> None:
    (path,) = (shop.store.root / "exposures" / "rows").glob("*.txt")
    path.write_text("x\n", encoding="utf-8")


def link_in_place_of_a_record(shop: Shop) -> None:
    path = shop.store.root / "champion" / "000001.json"
    path.rename(shop.root / "elsewhere.json")
    path.symlink_to(shop.root / "elsewhere.json")


def extra_file_in_an_empty_artifact(shop: Shop) -> None:
    (attacks.newest(shop, "adapter") / "code.py").write_text("import os", encoding="utf-8")


def extra_files_beside_artifacts(shop: Shop) -> None:
    (shop.store.artifacts / "evil.txt").write_text("a note")


def extra_file_beside_contents(shop: Shop) -> None:
    (shop.store.artifacts / "adapter" / "evil.txt").write_text("a note")


def extra_folder_of_records(shop: Shop) -> None:
    (shop.store.root / "inbox" / "sub").mkdir()
    shutil.copy(shop.store.root / "inbox" / "000001.json", shop.store.root / "inbox" / "sub")


def extra_file_beside_raw_files(shop: Shop) -> None:
    (shop.store.root / "blobs" / "rows.jsonl").write_text("{}")


def create_key_elsewhere(shop: Shop) -> attacks.SigningKey:
    """The key of an attacker, who has another machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_KEYS", str(shop.root.parent / "attacker"))
        return create_key()


ATTACKS: dict[Attack, tuple[str, str]] = {
    weights_as_redaction: ("edited_manifest", "merged_model"),
    attacks.drop_newest_champion: ("missing_record", "champion/000002.json"),
    edit_newest_record: ("edited_record", "champion/000002.json"),
    edit_record_and_copy: ("edited_record", "champion/000002.json"),
    edit_first_record: ("edited_record", "champion/000001.json"),
    back_date_record: ("edited_record", "champion/000002.json"),
    replay_record: ("unsigned_file", "champion/000003.json"),
    swap_records: ("edited_record", "champion/000001.json"),
    rebuild_weights: ("missing_artifact", "artifacts/merged_model"),
    rebuild_scores: ("missing_artifact", "artifacts/scores"),
    put_back_pointer: ("edited_pointer", "current/merged_model@qlora.json"),
    drop_pointer: ("edited_pointer", "current/scores@qlora.json"),
    drop_artifact: ("missing_artifact", "artifacts/adapter"),
    swap_artifacts: ("edited_manifest", "adapter"),
    edit_author: ("edited_manifest", "adapter"),
    attacks.plant: ("unsigned_file", "adapter"),
    drop_looks: ("edited_record", "exposures/000001.json"),
    drop_newest_look: ("missing_record", "exposures/000002.json"),
    edit_settings_of_newest_look: ("edited_record", "exposures/000002.json"),
    edit_inbox_decision: ("edited_record", "inbox/000001.json"),
    edit_erasure: ("edited_record", "redactions/000001.json"),
    drop_erasure: ("missing_record", "redactions/000001.json"),
    table_as_redaction: ("edited_manifest", "comparison"),
    raw_file_as_redaction: ("unsigned_file", "blobs/"),
    edit_journal_line: ("edited_journal", "journal.jsonl:5"),
    drop_journal_line: ("edited_journal", "journal.jsonl:7"),
    swap_journal_lines: ("edited_journal", "journal.jsonl:6"),
    replay_journal_line: ("edited_journal", "journal.jsonl:"),
    cut_journal: ("dropped_changes", "journal.jsonl"),
    remove_signatures: ("missing_journal", "journal.jsonl"),
    sign_with_another_key: ("wrong_key", "journal.jsonl"),
    replace_public_key: ("wrong_key", "signing_key.pub"),
    empty_journal: ("missing_journal", "journal.jsonl"),
    link_in_place_of_the_store: ("wrong_key", "journal.jsonl"),
    introduce_the_right_key_last: ("wrong_key", "journal.jsonl"),
    append_with_another_key: ("wrong_key", "journal.jsonl:"),
    record_with_the_number_of_another: ("unsigned_file", "champion/000003.json"),
    edit_ids_of_tests: ("edited_record", "exposures/rows/"),
    link_in_place_of_a_record: ("linked_folder", "champion/000001.json"),
    extra_file_in_an_empty_artifact: ("extra_file", "adapter"),
    extra_files_beside_artifacts: ("extra_file", "artifacts/evil.txt"),
    extra_file_beside_contents: ("extra_file", "artifacts/adapter/evil.txt"),
    extra_folder_of_records: ("extra_file", "inbox/sub/000001.json"),
    extra_file_beside_raw_files: ("extra_file", "blobs/rows.jsonl"),
}
"""Attack → code and place of one of its findings."""


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_without_the_key_is_found_and_named(signed: Shop, ft: Command, attack: Attack) -> None:
    attack(signed)
    exit_code, output = ft("audit", "--verify", "--json")
    findings = json.loads(output)["findings"]
    code, where = ATTACKS[attack]
    assert any(finding["code"] == code and finding["where"].startswith(where) for finding in findings), findings
    assert exit_code == 1


@pytest.mark.parametrize(
    "attack",
    [
        *(weights_as_redaction, rebuild_weights, edit_newest_record, cut_journal, empty_journal, put_back_pointer),
        *(append_with_another_key, record_with_the_number_of_another, sign_with_another_key),
    ],
)
def test_a_changed_champion_is_not_handed_out(signed: Shop, attack: Attack) -> None:
    model = _champion(signed)
    require_intact(signed.store, model)
    attack(signed)
    with pytest.raises(UserError):
        require_intact(signed.store, model)


def test_a_clock_that_was_ahead_does_not_block_the_store(signed: Shop, ft_json: Command) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
    pointer = next((signed.store.root / "current").iterdir())
    name = pointer.relative_to(signed.store.root).as_posix()
    attacks.sign_line(signed, {name: attacks.sha256_of_file(pointer)}, "pointer", tomorrow)
    decisions.record(signed.store.root, "rejected", {"call-3": (1, 1)}, "", [])
    require_intact(signed.store, _champion(signed))
    assert {finding["code"] for finding in ft_json("audit", "--verify")["findings"]} == {"back_dated"}


def test_a_dropped_champion_is_not_replaced_by_the_one_before(signed: Shop) -> None:
    attacks.drop_newest_champion(signed)
    with pytest.raises(UserError, match=r"The store is not as it was signed: .* was removed"):
        require_intact(signed.store, _champion(signed))


def _champion(shop: Shop) -> ModelReference:
    record = history(shop.store.root)[-1]
    conversations = current_artifact(shop.store, "conversations")
    assert conversations
    return ModelReference(
        "champion", "merged", record.name, "qlora", record.fingerprints, {}, conversations.reference, record=record
    )


def test_nothing_is_recorded_on_a_journal_that_was_cut_off(signed: Shop) -> None:
    cut_journal(signed)
    with pytest.raises(UserError, match=r"ends at line \d+, but line \d+ was signed here"):
        signed.put("adapter", "qlora", {}, {"other": 1}, {"adapter_model.safetensors": b"x"})


def test_a_dropped_record_is_not_written_over(signed: Shop) -> None:
    attacks.drop_newest_champion(signed)
    with pytest.raises(UserError, match=r"champion/000002\.json was signed, but is missing"):
        signed.release(signed.materialize(learning_rate=3e-3))


@pytest.mark.parametrize("attack", [append_with_another_key, sign_with_another_key, introduce_the_right_key_last])
def test_nothing_is_signed_after_the_line_of_somebody_else(signed: Shop, attack: Attack) -> None:
    attack(signed)
    with pytest.raises(UserError):
        signed.put("adapter", "qlora", {}, {"other": 1}, {"adapter_model.safetensors": b"x"})


def test_a_planted_line_does_not_let_the_next_change_write_a_file(signed: Shop, tmp_path: Path) -> None:
    """A change that a killed process signed is completed; one that nobody signed is not."""
    target, content = tmp_path / "startup.sh", "echo owned"
    digest = attacks.hashlib.sha256(content.encode()).hexdigest()
    now = read_journal(signed.store.root).entries[-1].time
    attacks.sign_line(signed, {str(target): digest}, "champion", now, key=create_key_elsewhere(signed))
    pending = {str(target): content, "../../startup.sh": content}
    (signed.store.root / "journal.pending.json").write_text(json.dumps(pending), encoding="utf-8")
    with pytest.raises(UserError):
        signed.put("adapter", "qlora", {}, {"other": 1}, {"adapter_model.safetensors": b"x"})
    assert not target.exists()


def test_an_artifact_that_was_removed_is_not_given_up_for_the_attacker(signed: Shop, ft_json: Command) -> None:
    made = signed.put("scores", "other", {}, {"a": 1}, {"samples.json": b"{}"})
    lines = attacks.journal(signed).read_bytes().splitlines()
    assert read_journal(signed.store.root).entries[-1].change == "pointer" and len(lines) > 2
    shutil.rmtree(made.path)
    decisions.record(signed.store.root, "rejected", {"call-3": (1, 1)}, "", [])
    assert "missing_artifact" in {finding["code"] for finding in ft_json("audit", "--verify")["findings"]}


def test_a_request_is_approved_only_as_it_was_signed(signed: Shop, ft: Command) -> None:
    assert "No request is open." in ft("approve")[1]
    record = history(signed.store.root)[-1]
    candidate = Candidate(
        name="a", kind="merged", experiment="qlora", fingerprint="f" * 64, fingerprints=dict(record.fingerprints)
    )
    _, request = requests.request_move(signed.store.root, lambda _: Promotion(candidate=candidate, reason="better"))
    assert request and request.sequence == 1
    edit(signed.store.root / "requests" / "000001.json", lambda document: document.update(by="bob"))
    assert "a: better" in ft("approve")[1]  # shows what waits
    with pytest.raises(UserError, match=r"The store is not as it was signed: requests/000001\.json: was edited"):
        requests.approve(signed.store.root, 1)


def test_the_environment_does_not_name_the_author(signed: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "ceo")
    signed.release(signed.materialize(learning_rate=3e-3))
    record = json.loads((signed.store.root / "champion" / "000003.json").read_bytes())
    whoami = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    assert record["by"] == whoami == read_journal(signed.store.root).entries[-1].by


def test_what_ft_gc_removes_is_signed(signed: Shop, ft_json: Command) -> None:
    kept = [(pointer.kind, pointer.fingerprint) for pointer in AssetPointers(signed.store.root).all()]
    garbage = find_garbage(signed.store, kept, datetime.now(UTC))
    assert garbage.artifacts
    remove_garbage(signed.store, garbage)
    champions = [f for f in ft_json("audit", "--verify")["findings"] if "released it" not in f["message"]]
    assert champions == []


# --- with the key -----------------------------------------------------------------------------------------------------


def drop_with_key(shop: Shop) -> None:
    """Drop the newest champion, and sign a journal without it."""
    key = find_key(shop.store.root)
    assert key
    attacks.drop_newest_champion(shop)
    gone = ("champion/000002.json",)
    attacks.resign_everything(shop, key, lambda statement: statement["subject"][:1] and _is_gone(shop, statement, gone))


def _is_gone(shop: Shop, statement: dict, also: tuple[str, ...]) -> bool:
    name = statement["subject"][0]["name"]
    return name in also or (name.startswith(("artifacts", "current")) and not (shop.store.root / name).is_file())


def rewrite_with_key(shop: Shop) -> None:
    """Edit the newest record, and sign the journal again."""
    key = find_key(shop.store.root)
    assert key
    edit_newest_record(shop)
    attacks.resign_everything(shop, key)


def remove_record_with_key(shop: Shop) -> None:
    """Sign the removal of a record, which nothing may remove."""
    path = shop.store.root / "exposures" / "000002.json"
    now = read_journal(shop.store.root).entries[-1].time
    attacks.sign_line(shop, {"exposures/000002.json": attacks.sha256_of_file(path)}, "removal", now)
    path.unlink()


def edit_record_as_pointer_with_key(shop: Shop) -> None:
    """Sign another content of a record as a change that may replace files."""
    edit_inbox_decision(shop)
    path = shop.store.root / "inbox" / "000001.json"
    now = read_journal(shop.store.root).entries[-1].time
    attacks.sign_line(shop, {"inbox/000001.json": attacks.sha256_of_file(path)}, "pointer", now)


@pytest.mark.parametrize(
    ("attack", "where"),
    [(remove_record_with_key, "exposures/000002.json"), (edit_record_as_pointer_with_key, "inbox/000001.json")],
)
def test_no_signed_change_removes_or_replaces_a_record(
    signed: Shop, ft_json: Command, attack: Attack, where: str
) -> None:
    attack(signed)
    findings = ft_json("audit", "--verify")["findings"]
    assert any(finding["where"] == where and finding["code"] == "edited_record" for finding in findings), findings


@pytest.mark.parametrize(
    ("attack", "code"), [(drop_with_key, "rewritten_changes"), (rewrite_with_key, "rewritten_changes")]
)
@pytest.mark.parametrize("kind", ["file", "git"])
def test_an_attack_with_the_key_is_found_by_an_anchor(
    signed: Shop,
    ft: Command,
    ft_json: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attack: Attack,
    code: str,
    kind: str,
) -> None:
    anchor = str(tmp_path / "anchor.jsonl")
    if kind == "git":
        subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "anchors.git")], check=True)
        anchor = f"git+{tmp_path / 'anchors.git'}"
    assert ft("anchor", anchor)[0] == 0
    assert ft_json("audit", "--verify", "--anchor", anchor)["findings"] == []
    attack(signed)
    monkeypatch.setenv("FT_KEYS", str(tmp_path / "none"))  # the attacker also removed what this machine remembers
    findings = ft_json("audit", "--verify", "--anchor", anchor)["findings"]
    named = [finding["where"] for finding in findings if finding["code"] == code]
    assert "champion/000002.json" in named
    with pytest.raises(UserError, match="are not those of this journal"):
        ft("anchor", anchor)


def test_lines_that_were_cut_off_with_the_key_are_named_by_an_anchor(
    signed: Shop, ft: Command, ft_json: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ft("anchor", str(tmp_path / "anchor.jsonl"))
    cut_journal(signed)
    monkeypatch.setenv("FT_KEYS", str(tmp_path / "none"))
    findings = ft_json("audit", "--verify", "--anchor", str(tmp_path / "anchor.jsonl"))["findings"]
    dropped = [finding["where"] for finding in findings if finding["code"] == "dropped_changes"]
    assert "champion/000002.json" in dropped


def test_a_line_that_is_dated_back_with_the_key_is_found(signed: Shop, ft_json: Command) -> None:
    path = signed.store.root / "champion" / "000003.json"
    record = json.loads((path.parent / "000001.json").read_bytes())
    content = {**record, "sequence": 3, "since": "2026-01-01T00:00:00+00:00"}
    content["previous_sha256"] = attacks.sha256_of_file(path.parent / "000002.json")
    path.write_text(json.dumps(content), encoding="utf-8")
    files = {"champion/000003.json": attacks.sha256_of_file(path)}
    attacks.sign_line(signed, files, "champion", "2026-01-01T00:00:00+00:00")
    findings = ft_json("audit", "--verify")["findings"]
    assert any(finding["code"] == "back_dated" for finding in findings), findings


def test_a_record_with_another_time_than_its_signature_is_found(signed: Shop, ft_json: Command) -> None:
    path = signed.store.root / "champion" / "000003.json"
    record = json.loads((path.parent / "000001.json").read_bytes())
    content = {**record, "sequence": 3, "since": "2026-01-01T00:00:00+00:00"}
    content["previous_sha256"] = attacks.sha256_of_file(path.parent / "000002.json")
    path.write_text(json.dumps(content), encoding="utf-8")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    attacks.sign_line(signed, {"champion/000003.json": attacks.sha256_of_file(path)}, "champion", now)
    findings = ft_json("audit", "--verify")["findings"]
    assert [(one["code"], one["where"]) for one in findings] == [("back_dated", "champion/000003.json")]


def test_a_signed_redaction_of_weights_is_refused_too(signed: Shop, ft_json: Command) -> None:
    """Even the key cannot make a redaction of weights valid."""
    folder = attacks.newest(signed, "merged_model")
    attacks.dress_as_redaction(folder, "model.safetensors", b"backdoor")
    name = (folder / "manifest.json").relative_to(signed.store.root).as_posix()
    now = read_journal(signed.store.root).entries[-1].time
    attacks.sign_line(signed, {name: attacks.sha256_of_file(folder / "manifest.json")}, "redaction", now)
    findings = ft_json("audit", "--verify")["findings"]
    assert any("redaction of weights" in finding["message"] for finding in findings)


# --- other machines, and stores without a key -------------------------------------------------------------------------


def test_another_machine_verifies_with_the_public_key_alone(
    signed: Shop, ft: Command, ft_json: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(signed.store.root / "signing_key.pub", tmp_path / "known.pub")
    monkeypatch.setenv("FT_KEYS", str(tmp_path / "none"))
    alone = ft_json("audit", "--verify")
    assert alone["findings"] == [] and any("Compare it with the one that you know" in note for note in alone["notes"])
    assert ft_json("audit", "--verify", "--key", str(tmp_path / "known.pub"))["findings"] == []
    attacks.resign_everything(signed, create_key_elsewhere(signed))
    assert ft_json("audit", "--verify")["findings"] == []  # nothing tells this machine which key is right
    (finding, *_) = ft_json("audit", "--verify", "--key", str(tmp_path / "known.pub"))["findings"]
    assert finding["code"] == "wrong_key"


def test_the_program_in_the_docs_verifies_a_store_without_this_project(signed: Shop, tmp_path: Path) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "audit.md").read_text(encoding="utf-8")
    program = tmp_path / "verify_store.py"
    program.write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    shutil.move(signed.store.root, tmp_path / "elsewhere")
    command = [sys.executable, "-I", str(program), "elsewhere", "elsewhere/signing_key.pub"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run().returncode == 0 and ", 0 changed; the last line is " in run().stdout
    edit(tmp_path / "elsewhere" / "champion" / "000002.json", lambda record: record.update(by="ceo"))
    assert run().returncode == 1 and "changed: champion/000002.json" in run().stdout
    next((tmp_path / "elsewhere").glob("artifacts/merged_model/*/*/model.safetensors")).write_bytes(b"backdoor")
    assert "model.safetensors" in run().stdout


def test_a_store_without_a_key_says_that_it_is_unsigned(released: Shop, ft: Command, ft_json: Command) -> None:
    document = ft_json("audit", "--verify")
    assert document["findings"] == [] and document["signatures"] is None
    assert any(note.startswith("This store is not signed") for note in document["notes"])
    weights_as_redaction(released)
    assert any("redaction of weights" in one["message"] for one in ft_json("audit", "--verify")["findings"])


def test_a_store_is_signed_from_the_day_on_which_it_gets_a_key(released: Shop, ft: Command, ft_json: Command) -> None:
    assert ft("keys", "new", "--reason", "upgrade")[0] == 0
    document = ft_json("audit", "--verify")
    assert document["findings"] == [] and document["signatures"]["lines"] == 1
    released.release(released.materialize(learning_rate=2e-3))
    assert ft_json("audit", "--verify")["findings"] == []
    edit_first_record(released)
    assert any(one["where"] == "champion/000001.json" for one in ft_json("audit", "--verify")["findings"])


def test_a_lost_key_stops_changes_until_a_new_one_is_introduced(
    signed: Shop, ft: Command, ft_json: Command, tmp_path: Path
) -> None:
    shutil.copyfile(signed.store.root / "signing_key.pub", tmp_path / "old.pub")
    key = find_key(signed.store.root)
    assert key
    key.path.rename(tmp_path / "backup.pem")
    with pytest.raises(UserError, match=r"The signing key \w+ of this store is missing .* ft keys new --reason TEXT"):
        signed.materialize(learning_rate=5e-3)
    assert ft("keys", "new", "--reason", "the laptop was stolen")[0] == 0
    document = ft_json("audit", "--verify")
    assert document["findings"] == []
    assert any("without the one before it" in note and "the laptop was stolen" in note for note in document["notes"])
    (finding,) = ft_json("audit", "--verify", "--key", str(tmp_path / "old.pub"))["findings"]
    assert finding["code"] == "wrong_key"
    (tmp_path / "backup.pem").rename(key.path)


def test_a_key_that_its_predecessor_signed_is_trusted(
    signed: Shop, ft: Command, ft_json: Command, tmp_path: Path
) -> None:
    shutil.copyfile(signed.store.root / "signing_key.pub", tmp_path / "old.pub")
    assert ft("keys", "new", "--reason", "yearly")[0] == 0
    signed.materialize(learning_rate=5e-3)
    document = ft_json("audit", "--verify", "--key", str(tmp_path / "old.pub"))
    assert document["findings"] == [] and not any("without the one" in note for note in document["notes"])


def test_a_restored_backup_is_continued_only_on_request(signed: Shop, ft: Command, ft_json: Command) -> None:
    cut_journal(signed)
    assert ft("keys", "accept", "--reason", "restored from Monday")[0] == 0
    codes = {finding["code"] for finding in ft_json("audit", "--verify")["findings"]}
    assert "dropped_changes" not in codes
    last = read_journal(signed.store.root).entries[-1]
    assert last.change == "continued" and last.details["reason"] == "restored from Monday"
