"""Changes that an attacker or a broken disk makes to a store."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from ft_pipeline.store.manifest import sealed_manifest
from ft_pipeline_tests.audit.shop import Shop


def folder_of(shop: Shop, kind: str) -> Path:
    (folder,) = (shop.store.root / "artifacts" / kind).glob("*/*")
    return folder


def some_file(folder: Path) -> Path:
    return sorted(path for path in folder.iterdir() if path.name != "manifest.json")[0]


def flip(path: Path) -> None:
    """Change one bit, and put size and times back as an attacker would."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit(path: Path, change: Callable[[dict], object], *, reseal: bool = False) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(sealed_manifest(document) if reseal else json.dumps(document).encode())
