"""Write what is disclosed about a model into the folder with its files, and sign the folder."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.release.card.files import files_section
from ft_pipeline.release.card.model_card import render_card
from ft_pipeline.release.disclosure.bom import build_bom
from ft_pipeline.release.disclosure.facts import ExportFacts
from ft_pipeline.release.disclosure.provenance import build_statement
from ft_pipeline.release.export.huggingface import CARD_NAME
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.signing import PUBLIC_KEY_NAME, SigningKey

BOM, ROWS = "bom.cdx.json", "training_rows.txt"
STATEMENT, ENVELOPE = "provenance.json", "provenance.dsse.json"
"""The provenance as it is read, and the same statement in a signed envelope (DSSE), if the project has a key."""
SUMS, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "model.sig", PUBLIC_KEY_NAME
SIGNATURES = frozenset({SIGNATURE, ENVELOPE})
"""They differ each time the same model is exported, because a signature contains randomness. SUMS leaves them out."""
WEIGHT_SUFFIXES = (".safetensors", ".gguf")
_BASE_FOLDER = "base"
"""The folder with an adapter's base model: its weights were not made here."""


def disclose(
    folder: Path,
    facts: ExportFacts,
    key: SigningKey | None,
    adapt_card: Callable[[str], str] = lambda card: card,
) -> None:
    """Write the card, the bill of materials, the provenance, the list of training rows and SHA256SUMS, and sign it all.

    folder: contains the model's own files already, and nothing else. key: None if the project has none; then the card
    says that the export is not signed. adapt_card: changes the card, before the section on the files is added.
    """
    weights = _hashes(folder, (path for path in _files(folder) if path.suffix in WEIGHT_SUFFIXES))
    made = {name: sha256 for name, sha256 in weights.items() if not name.startswith(f"{_BASE_FOLDER}/")}
    (folder / ROWS).write_text(facts.rows.render(), encoding="ascii")
    statement = build_statement(facts, made, sha256_of_file(folder / ROWS))
    _write_json(folder / STATEMENT, statement)
    references = _hashes(folder, [folder / STATEMENT, folder / ROWS])
    _write_json(folder / BOM, build_bom(facts, made, references))
    if key is not None:
        (folder / ENVELOPE).write_bytes(key.sign(statement))
        (folder / PUBLIC_KEY).write_bytes(key.public_pem)
    section = _files_section(folder, facts, weights, key_id=key.key_id if key else None)
    (folder / CARD_NAME).write_text(f"{adapt_card(render_card(facts.card))}\n{section}", encoding="utf-8")
    seal(folder, key, weights)


def seal(folder: Path, key: SigningKey | None, weights: Mapping[str, str] | None = None) -> None:
    """Write SHA256SUMS of a finished folder, and sign it. weights: hashes of the weight files, if they are known."""
    known = weights or _hashes(folder, (path for path in _files(folder) if path.suffix in WEIGHT_SUFFIXES))
    (folder / SUMS).write_text(_sums(folder, known), encoding="utf-8")
    if key is not None:
        _sign(folder, key.path)


def _files_section(folder: Path, facts: ExportFacts, weights: Mapping[str, str], *, key_id: str | None) -> str:
    documents = _hashes(folder, [folder / name for name in (BOM, STATEMENT, ROWS)])
    return files_section(
        {**weights, **documents},
        root=facts.rows.root,
        leaves=len(facts.rows.leaves),
        withheld=facts.rows.withheld,
        key_id=key_id,
    )


def _sums(folder: Path, weights: Mapping[str, str]) -> str:
    """Return the lines of SHA256SUMS, in the format of coreutils. weights: hashes of files that are known already."""
    listed = (path for path in _files(folder) if path.name not in {SUMS, *SIGNATURES})
    others = _hashes(folder, (path for path in listed if path.suffix not in WEIGHT_SUFFIXES))
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted({**weights, **others}.items()))


def _sign(folder: Path, private_key: Path) -> None:
    """Sign every file of the folder with OpenSSF model signing. No connection is opened."""
    from model_signing import hashing, signing

    signature = folder / SIGNATURE
    covered = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True)
    signer = signing.Config().use_elliptic_key_signer(private_key=private_key)
    signer.set_hashing_config(covered).sign(folder, signature)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _hashes(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file, by its name in the folder."""
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in files}


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
