"""Attacks on a finished, signed store. Each changes the store as somebody would who wants to hide the change."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from ft_pipeline.store.hashing import canonical_json, sha256_of_file, sha256_of_json
from ft_pipeline.store.journal_lines import FILE_NAME, PREDICATE_TYPE
from ft_pipeline.store.manifest import FileEntry, fingerprint_of, sealed_manifest
from ft_pipeline.store.signing import STATEMENT_TYPE, SigningKey, find_key
from ft_pipeline_tests.audit.shop import Shop
from ft_pipeline_tests.audit.tampering import edit


def journal(shop: Shop) -> Path:
    return shop.store.root / FILE_NAME


def newest(shop: Shop, kind: str) -> Path:
    """The folder of the newest artifact of a kind."""
    folders = (shop.store.root / "artifacts" / kind).glob("*/*")
    return max(folders, key=lambda folder: json.loads((folder / "manifest.json").read_bytes())["created"])


def oldest(shop: Shop, kind: str) -> Path:
    folders = (shop.store.root / "artifacts" / kind).glob("*/*")
    return min(folders, key=lambda folder: json.loads((folder / "manifest.json").read_bytes())["created"])


def dress_as_redaction(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and declare in the manifest that `ft erase` did it."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    before = sha256_of_file(folder / "manifest.json")
    (folder / name).write_bytes(content)
    change = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    entry = {"number": 1, "when": "2026-11-01T00:00:00+00:00", "by": "root", "manifest_sha256": before}
    manifest["redactions"] = [*manifest.get("redactions", ()), {**entry, "files": {name: change}}]
    (folder / "manifest.json").write_bytes(sealed_manifest(manifest))


def drop_newest_champion(shop: Shop) -> None:
    """Remove the last record, its copy and the pointer to the copy, and list the copy as removed by `ft gc`."""
    root = shop.store.root
    sorted((root / "champion").glob("*.json"))[-1].unlink()
    copy = newest(shop, "champion")
    manifest = json.loads((copy / "manifest.json").read_bytes())
    line = {"time": "2026-11-01T00:00:00+00:00", "kind": "champion", "fingerprint": manifest["fingerprint"]}
    line |= {"manifest_sha256": sha256_of_file(copy / "manifest.json"), "created": manifest["created"]}
    (root / "removed.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    shutil.rmtree(copy)
    (root / "current" / "champion.json").unlink()


def rebuild_all_hashes(shop: Shop, folder: Path, name: str, content: bytes) -> None:
    """Change a file of an artifact, and compute every hash again that depends on it: manifests, folders, pointers,
    champion records. The result is consistent."""
    (folder / name).write_bytes(content)
    root = shop.store.root
    fingerprints: dict[str, str] = {}
    manifests: dict[str, str] = {}
    paths = list(root.glob("artifacts/*/*/*/manifest.json"))
    for path in sorted(paths, key=lambda path: json.loads(path.read_bytes())["created"]):
        _rebuild(path, fingerprints, manifests)
    for pointer in root.glob("current/*.json"):
        _replace_all(pointer, fingerprints | manifests)
    previous = None
    for record in sorted(root.glob("champion/*.json")):
        _replace_all(record, fingerprints | manifests)
        edit(record, lambda document, sha256=previous: document.update(previous_sha256=sha256))
        previous = sha256_of_file(record)


def _rebuild(path: Path, fingerprints: dict[str, str], manifests: dict[str, str]) -> None:
    before = sha256_of_file(path)
    text = path.read_text(encoding="utf-8")
    for old, new in (fingerprints | manifests).items():
        text = text.replace(old, new)
    manifest = json.loads(text)
    entries = []
    for entry in manifest["files"]:
        file = path.parent / entry["path"]
        if sha256_of_file(file) != entry["sha256"] and file.suffix == ".json":
            _replace_all(file, fingerprints | manifests)
        entries.append({**entry, "sha256": sha256_of_file(file), "bytes": file.stat().st_size})
    manifest["files"] = entries
    old_fingerprint = manifest["fingerprint"]
    manifest["fingerprint"] = fingerprint_of(manifest["kind"], [FileEntry(**entry) for entry in entries])
    manifest["spec_hash"] = sha256_of_json(manifest["spec"])
    fingerprints[old_fingerprint] = manifest["fingerprint"]
    path.write_bytes(sealed_manifest({key: value for key, value in manifest.items() if key != "seal"}))
    manifests[before] = sha256_of_file(path)
    target = path.parent.parent.parent / manifest["spec_hash"][:16] / manifest["fingerprint"][:16]
    if target != path.parent:
        target.parent.mkdir(exist_ok=True)
        path.parent.rename(target)
        if not any(path.parent.parent.iterdir()):
            path.parent.parent.rmdir()


def _replace_all(path: Path, replacements: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in replacements.items():
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def resign_everything(shop: Shop, key: SigningKey, skip: Any = lambda statement: False) -> None:
    """Write another journal with a key: without the lines that `skip` names, and with the present hashes of files."""
    import base64

    root = shop.store.root
    statements = [
        json.loads(base64.b64decode(json.loads(line)["payload"])) for line in journal(shop).read_bytes().splitlines()
    ]
    lines: list[bytes] = []
    for statement in statements:
        if skip(statement):
            continue
        for subject in statement["subject"]:
            if (root / subject["name"]).is_file():
                subject["digest"] = {"sha256": sha256_of_file(root / subject["name"])}
        predicate = statement["predicate"]
        predicate["sequence"] = len(lines) + 1
        predicate["previous"] = hashlib.sha256(lines[-1]).hexdigest() if lines else None
        if "public_key" in predicate["details"]:
            predicate["details"]["public_key"] = key.public_pem.decode()
        lines.append(key.sign(statement))
    journal(shop).write_bytes(b"".join(line + b"\n" for line in lines))
    (root / "signing_key.pub").write_bytes(key.public_pem)


def sign_line(
    shop: Shop,
    files: dict[str, str],
    change: str,
    time: str,
    *,
    key: SigningKey | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Append a line with any date, and the store's own key or another one."""
    key = key or find_key(shop.store.root)
    assert key is not None
    lines = journal(shop).read_bytes().splitlines()
    predicate = {"sequence": len(lines) + 1, "previous": hashlib.sha256(lines[-1]).hexdigest(), "time": time}
    predicate |= {"by": "ceo", "uid": 0, "host": "x", "change": change, "details": details or {}}
    subject = [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in files.items()]
    statement = {"_type": STATEMENT_TYPE, "subject": subject, "predicateType": PREDICATE_TYPE, "predicate": predicate}
    with journal(shop).open("ab") as file:
        file.write(key.sign(statement) + b"\n")


def rechain(folder: Path) -> None:
    """Compute the hashes of a ledger's records again, so that each matches the one before it."""
    previous = None
    for path in sorted(path for path in folder.glob("*.json") if ".result" not in path.name):
        record = json.loads(path.read_bytes())
        path.write_text(json.dumps({**record, "previous_sha256": previous}), encoding="utf-8")
        previous = sha256_of_file(path)


def plant(shop: Shop) -> Path:
    """Add an artifact that no run made, with a valid manifest."""
    source = newest(shop, "adapter")
    manifest = json.loads((source / "manifest.json").read_bytes())
    manifest["spec"]["config"]["planted"] = True
    manifest["spec_hash"] = sha256_of_json(manifest["spec"])
    target = source.parent.parent / manifest["spec_hash"][:16] / source.name
    shutil.copytree(source, target)
    del manifest["seal"]
    (target / "manifest.json").write_bytes(canonical_json(json.loads(sealed_manifest(manifest))) + b"\n")
    return target
