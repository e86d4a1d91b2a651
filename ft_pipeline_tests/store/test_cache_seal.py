"""In a signed store, only entries of caches that its key sealed are used."""

import json
from pathlib import Path

import pytest

from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.journal import sign_new_store
from ft_pipeline.store.signing import KEY_FILE, KEYS_FOLDER, find_key
from ft_pipeline.store.stat_cache import StatCache, stamp_of


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    root.mkdir()
    sign_new_store(root)
    return root


def forge_hash(cache: StatCache, file: Path, sha256: str, seal: str) -> None:
    """Write that `file`, as it is now, has this hash: as somebody would who cannot sign."""
    for saved in cache.root.iterdir():
        saved.write_text(json.dumps({"entries": {file.name: [*stamp_of(file), sha256]}, "seal": seal}))


@pytest.mark.parametrize("seal", ["kept", "unsealed", ""])
def test_a_planted_hash_is_not_used(store: Path, seal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_pipeline.store.stat_cache._is_racy", lambda entry: False)
    weights, cache = store / "model.safetensors", StatCache(store)
    weights.write_bytes(b"as it was trained")
    signed = cache.hashes(store, [weights.name])[weights.name]
    kept = json.loads(next(cache.root.iterdir()).read_bytes())["seal"]
    weights.write_bytes(b"as somebody likes")
    forge_hash(cache, weights, signed, kept if seal == "kept" else seal)
    assert StatCache(store).hashes(store, [weights.name])[weights.name] == sha256_of_file(weights) != signed


def test_a_sealed_hash_is_used_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_pipeline.store.stat_cache._is_racy", lambda entry: False)
    file = store / "rows"
    file.write_text("rows")
    first = StatCache(store).hashes(store, ["rows"])
    assert StatCache(store).hashes(store, ["rows"], lambda path: "read again") == first


def test_seals_of_another_folder_do_not_fit(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in another folder cannot borrow the hashes that were sealed for this one."""
    monkeypatch.setattr("ft_pipeline.store.stat_cache._is_racy", lambda entry: False)
    cache = StatCache(store)
    for name in ("one", "other"):
        (store / name).mkdir()
        (store / name / "rows").write_text(name)
        cache.hashes(store / name, ["rows"])
    files = sorted(cache.root.iterdir())
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_bytes(content)
    assert StatCache(store).hashes(store / "one", ["rows"], lambda path: "read again") == {"rows": "read again"}


def put(cache: FolderCache, tmp_path: Path, key: str) -> None:
    built = tmp_path / f"built-{key}"
    built.mkdir()
    (built / "rows.arrow").write_text(f"rows of {key}")
    cache.store(key, built)


def test_planted_rows_are_not_used(store: Path, tmp_path: Path) -> None:
    cache = FolderCache(store, "tables")
    put(cache, tmp_path, "key")
    assert cache.restore("key", tmp_path / "as it was built")
    rows, recorded = cache.root / "key" / "rows.arrow", cache.root / "key" / "entry.json"
    rows.unlink()
    rows.write_text("rows of somebody else")
    entry = json.loads(recorded.read_bytes())
    recorded.write_text(json.dumps(entry | {"files": {"rows.arrow": sha256_of_file(rows)}}))
    assert not cache.restore("key", tmp_path / "planted")
    assert not (tmp_path / "planted").exists() and not rows.exists()


def test_rows_under_another_key_are_not_used(store: Path, tmp_path: Path) -> None:
    cache = FolderCache(store, "tables")
    put(cache, tmp_path, "key")
    (cache.root / "key").rename(cache.root / "other")
    assert not cache.restore("other", tmp_path / "other")


def test_without_the_key_nothing_is_used_or_written(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_pipeline.store.stat_cache._is_racy", lambda entry: False)
    (store / "rows").write_text("rows")
    StatCache(store).hashes(store, ["rows"])
    put(FolderCache(store, "tables"), tmp_path, "key")
    before = {path: path.read_bytes() for path in (store / "cache").rglob("*.json")}
    monkeypatch.setenv(KEYS_FOLDER, str(tmp_path / "no keys"))
    assert StatCache(store).hashes(store, ["rows"], lambda path: "read again") == {"rows": "read again"}
    put(FolderCache(store, "tables"), tmp_path, "new")
    assert {path: path.read_bytes() for path in (store / "cache").rglob("*.json")} == before


def test_the_seal_comes_from_the_private_key(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted key gives the same seals as the file in the folder of keys."""
    put(FolderCache(store, "tables"), tmp_path, "key")
    key = find_key(store)
    assert key is not None
    mounted = tmp_path / "mounted.pem"
    mounted.write_bytes(key.path.read_bytes())
    monkeypatch.setenv(KEYS_FOLDER, str(tmp_path / "no keys"))
    monkeypatch.setenv(KEY_FILE, str(mounted))
    assert FolderCache(store, "tables").restore("key", tmp_path / "restored")
