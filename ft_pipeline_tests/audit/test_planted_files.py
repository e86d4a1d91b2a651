"""Whatever somebody plants in a store, `ft audit --verify` goes on to its end, and names it in a finding."""

import copy
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.exposure_ledger import Look
from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.erasure.erase import erase
from ft_pipeline.inbox import decisions
from ft_pipeline.project import Project
from ft_pipeline.ratings import rating_ledger
from ft_pipeline.release import requests
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.hashing import sha256_of_file, sha256_of_json
from ft_pipeline.store.journal import sign_new_store
from ft_pipeline.store.manifest import sealed_manifest
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import Shop
from ft_pipeline_tests.fixtures.packing import unpack

PACKED = Path(__file__).parents[1] / "fixtures" / "store_a73cd80.tar.zst"
SECONDS = 60
"""A command that takes longer waits for something, or counts to a planted number."""
CONTENTS = {
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "list": b"[1]",
    "text": b'"x"',
    "number": b"3",
    "null": b"null",
    "empty object": b"{}",
    "not UTF-8": b'\xff\xfe{"a": 1}',
    "half a character": b'{"time": "\\ud800"}',
    "nothing": b"",
    "NaN": b"NaN",
    "huge integer": b"9" * 10_000,
}
PLANTS: dict[str, Callable[[Path], object]] = {
    **{name: lambda path, content=content: path.write_bytes(content) for name, content in CONTENTS.items()},
    "folder": Path.mkdir,
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "pipe": os.mkfifo,
}
RECORDS = ("champion", "requests", "redactions", "exposures", "inbox", "ratings")
FILES = (
    *(f"{folder}/*.json" for folder in RECORDS),
    *("exposures/*.result.json", "exposures/rows/*.txt", "ratings/rows/*.json", "current/*.json", "removed.jsonl"),
    *(f"blobs/*/*{suffix}" for suffix in (".zst", ".redacted.json", ".reference.json")),
    *(f"artifacts/{kind}/*/*/manifest.json" for kind in ("raw_alpaca", "alpaca", "adapter", "scores", "champion")),
)
MUTATED = [pattern for pattern in FILES if pattern.endswith(".json") and "reference" not in pattern]
NAN = float("nan")
VALUES: tuple[Any, ...] = (None, [], {}, [1], {"a": 1}, "x", "../" * 80, -1, 10**400, NAN, True)


def _record_everything(shop: Shop) -> Shop:
    """Write a store with every kind of record, and a raw file that is stored by reference."""
    shop.write_project()
    shop.release(shop.materialize())
    shop.release(shop.materialize(learning_rate=2e-3), value=2.2)
    store = shop.store.root
    for number, comparison in enumerate(("one", "two"), 1):
        exposure_ledger.write_looks(store, [Look(comparison)], ["a", "b"], {}, "key")
        entry = store / "exposures" / f"00000{number}.json"
        result = {"entry_sha256": sha256_of_file(entry), "results": {}, "moved": None}
        entry.with_suffix(".result.json").write_text(json.dumps(result), encoding="utf-8")  # of the version before
        decisions.record(store, "accepted", {f"call-{number}": (1, 1)}, "good", [])
        sides = ("a", "b", f"x{number}:0", "one", "two")
        rating_ledger.append_rating(
            store, rating_ledger.Rating("2026-11-01T00:00:00+00:00", "ann", *sides, 1, "candidate", 1.0, None)
        )
    rating_ledger.seed_of(store, ("a", "b"))
    requests.request_move(
        store,
        lambda _: Promotion(
            candidate=Candidate(name="x", kind="merged", experiment="qlora", fingerprint="f"), reason="because"
        ),
    )
    chats = shop.raw("sharegpt", "chats.jsonl")
    copied = next((store / "blobs").glob(f"*/{sha256_of_file(chats)}.zst"))
    copied.unlink()
    copied.with_suffix(".reference.json").write_text(json.dumps({"path": str(chats)}), encoding="utf-8")
    (store / "removed.jsonl").write_text('{"kind": "adapter", "fingerprint": "f"}\n', encoding="utf-8")
    erase(Project(shop.root), shop.raw("alpaca", "support.jsonl"), [5], "request 1")
    return shop


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return _record_everything(Shop(tmp_path_factory.mktemp("recorded") / "shop"))


@pytest.fixture(scope="module")
def signed_once(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("recorded") / "shop")
    shop.root.mkdir()
    sign_new_store(shop.store.root)
    return _record_everything(shop)


@pytest.fixture
def recorded(recorded_once: Shop, opened: Path) -> Path:
    return shutil.copytree(recorded_once.root, opened) / "data" / "store"


@pytest.fixture
def audited(ft: Command) -> Callable[..., tuple[int, str]]:
    """`ft audit --verify` within SECONDS: exit code, and findings as one text."""

    def stop(*_: object) -> None:
        raise AssertionError(f"the audit takes more than {SECONDS} s")

    def run() -> tuple[int, str]:
        before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(SECONDS)
        try:
            code, output = ft("audit", "--verify", "--json")
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        return code, json.dumps(json.loads(output)["findings"], ensure_ascii=False)

    return run


@contextmanager
def _instead_of(path: Path) -> Iterator[None]:
    """Remove what is at a path, and put it back."""
    kept = path.read_bytes() if path.is_file() else None
    path.unlink(missing_ok=True)
    yield
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    if kept is not None:
        path.write_bytes(kept)


def _plant_each(path: Path, audited: Any, plants: dict[str, Any] = PLANTS) -> None:
    """Plant each, and expect a finding that names it: by its artifact's folder, or the beginning of its name."""
    named = path.parent.name if path.name == "manifest.json" else path.name.partition(".")[0][:12]
    for name, plant in plants.items():
        with _instead_of(path):
            plant(path)
            code, findings = audited()
            assert code == 1 and named in findings, (name, findings)


SIGNED = ("journal.jsonl", "signing_key.pub", "champion/*.json", "current/*.json")
"""Files of a signed store."""


def _shares(patterns: Sequence[str]) -> list[Any]:
    """Return (a file, names of plants): a part of them for each file, and each for some file. The rest is long."""
    names, parts = [*PLANTS], min(len(patterns), 8)
    return [
        pytest.param(
            pattern, names[part::parts], id=f"{pattern}-{part}", marks=() if part == at % parts else pytest.mark.long
        )
        for at, pattern in enumerate(patterns)
        for part in range(parts)
    ]


@pytest.mark.parametrize(("pattern", "names"), _shares(FILES))
def test_a_file_in_place_of_a_file_of_the_store_is_a_finding(
    recorded: Path, audited: Any, pattern: str, names: list[str]
) -> None:
    assert audited()[0] == 0
    plants = {name: PLANTS[name] for name in names if (pattern, name) != ("removed.jsonl", "nothing")}
    _plant_each(sorted(recorded.glob(pattern))[-1], audited, plants)


@pytest.mark.parametrize(("pattern", "names"), _shares(SIGNED))
def test_a_file_in_a_signed_store_is_a_finding(
    signed_once: Shop, opened: Path, audited: Any, pattern: str, names: list[str]
) -> None:
    store = shutil.copytree(signed_once.root, opened) / "data" / "store"
    _plant_each(sorted(store.glob(pattern))[-1], audited, {name: PLANTS[name] for name in names})


@pytest.mark.parametrize("folder", RECORDS)
@pytest.mark.parametrize("name", ["99999999.json", f"{'9' * 200}.json", "000000.json", "x.json", "²²²²²².json"])
def test_a_record_that_nobody_wrote_is_a_finding(recorded: Path, audited: Any, folder: str, name: str) -> None:
    plants = {"copy": lambda path: shutil.copy(recorded / folder / "000001.json", path), "pipe": PLANTS["pipe"]}
    _plant_each(recorded / folder / name, audited, plants)


@pytest.mark.parametrize("folder", [*RECORDS, "current"])
def test_something_in_place_of_a_folder_of_records_is_a_finding(recorded: Path, audited: Any, folder: str) -> None:
    shutil.rmtree(recorded / folder)
    _plant_each(recorded / folder, audited, {kind: PLANTS[kind] for kind in ("text", "link to itself", "pipe")})


def _paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a document, not deeper than four keys."""
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children if len(path) < 4 else ():
        yield from _paths_in(child, (*path, key))


def test_a_record_without_the_hash_of_the_one_before_is_a_finding(recorded: Path, audited: Any) -> None:
    for folder in ("exposures", "ratings"):
        path = sorted((recorded / folder).glob("00000[0-9].json"))[-1]
        with _instead_of(path):
            record = json.loads((recorded / folder / "000001.json").read_bytes())
            del record["previous_sha256"]
            path.write_text(json.dumps({**record, "sequence": int(path.stem)}), encoding="utf-8")
            code, findings = audited()
            assert code == 1 and path.name in findings


@pytest.mark.parametrize("begin", [0, pytest.param(4, marks=pytest.mark.long), pytest.param(8, marks=pytest.mark.long)])
@pytest.mark.parametrize("pattern", MUTATED)
def test_a_value_of_another_type_does_not_stop_an_audit(
    recorded: Path, audited: Any, ft: Command, pattern: str, begin: int
) -> None:
    """Manifests are sealed again, as somebody would who can compute a hash."""
    path = sorted(recorded.glob(pattern))[-1]
    document, chance = json.loads(path.read_bytes()), random.Random(pattern)
    places = [(place, value) for place in _paths_in(document) for value in VALUES]
    for place, value in chance.sample(places, min(len(places), 12))[begin : begin + 4]:
        changed = copy.deepcopy(document)
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        path.write_text(json.dumps(changed), encoding="utf-8")
        if path.name == "manifest.json" and value is not NAN:  # no hash can be made of it
            path.write_bytes(sealed_manifest({**changed, "spec_hash": sha256_of_json(changed["spec"])}))
        code, _ = audited()
        assert code in (0, 1) and ft("audit", "--verify")[0] == code, (place, value)


@pytest.mark.slow
@pytest.mark.long
def test_a_store_of_an_older_version_is_audited_to_its_end(opened: Path, audited: Any) -> None:
    store = ArtifactStore(unpack(PACKED, opened) / "data" / "store")
    kinds = sorted(path.name for path in store.artifacts.iterdir())
    patterns = [*(f"artifacts/{kind}/*/*/manifest.json" for kind in kinds), "champion/*.json", "redactions/*.json"]
    for pattern in patterns:
        _plant_each(sorted(store.root.glob(pattern))[-1], audited, {"deep list": PLANTS["deep list"]})
    for name in ("champion/99999999.json", "inbox/99999999.json"):
        (store.root / name).parent.mkdir(exist_ok=True)
        _plant_each(store.root / name, audited, {kind: PLANTS[kind] for kind in ("empty object", "pipe")})
