"""Scan a model folder before any of it is loaded: plain weights and JSON, no code, nothing from outside the folder.

Files that could run code are never used. Pickled weights are left out by name. The content of each file that is used
is checked against its name, so that a pickle with the name `model.safetensors` is refused, too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.store.pickles import begins_like_a_pickle, named_like_a_pickle

KEPT_PATTERNS = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
)
"""Names of the files that a causal LM needs and that cannot contain code: no .bin, no pickle, no .py."""
CODE_SUFFIXES = frozenset({".py", ".so", ".pyc"})
"""Suffixes of files that are code."""
IMPLEMENTATION_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
)
"""Keys of config.json that can name a kernel of the hub, which transformers would download and run."""


def kept_files(folder: Path, model: str) -> list[Path]:
    """Return the files of a model folder that are used, sorted by name. UserError if one is a link out of the folder.

    In the hub's cache, links to the cache's own blobs are allowed.
    """
    files = sorted(
        {path for pattern in KEPT_PATTERNS for path in folder.glob(pattern) if path.is_symlink() or path.is_file()}
    )
    roots = [folder.resolve()]
    if folder.parent.name == "snapshots":
        roots.append((folder.parents[1] / "blobs").resolve())
    for path in files:
        if path.is_symlink() and not _is_inside(path, roots):
            raise UserError(
                f"model {model!r}: {path.name} is a link to a file outside the folder, or to no file. Replace it "
                "with the file itself."
            )
    return [path for path in files if path.is_file()]


def unsafe_files(folder: Path) -> list[str]:
    """Return the names of the files that are never loaded because they could run code: pickles and Python."""
    return sorted(
        path.name for path in folder.iterdir() if path.suffix in CODE_SUFFIXES or named_like_a_pickle(path.name)
    )


def refuse_hostile_files(folder: Path, model: str) -> None:
    """Raise UserError if the content of a file does not match its name, or requests code or files from elsewhere."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            _require_safetensors(path, model)
        elif begins_like_a_pickle(path):
            raise UserError(
                f"model {model!r}: {path.name} is a pickle, which is never loaded. Copy the model again from a "
                "source that you trust."
            )
    for path in folder.glob("*.safetensors.index.json"):
        _require_parts_in_folder(path, model)
    for name in ("config.json", "tokenizer_config.json"):
        content = read_json(folder / name, model)
        if "auto_map" in content:
            raise UserError(
                f"model {model!r} needs its own Python code ({name}: auto_map), which is never run. Choose a "
                "model that transformers supports."
            )
    for key, value in _nested_items(read_json(folder / "config.json", model)):
        if key in IMPLEMENTATION_KEYS and "/" in json.dumps(value):
            raise UserError(
                f"model {model!r} requests code from the hub (config.json: {key} is {value!r}), which is never "
                "run. Remove the key."
            )


def read_json(path: Path, model: str) -> dict[str, Any]:
    """Return the JSON object in a file of a model; empty if the file does not exist. UserError if its content is not an
    object."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"model {model!r}: {path.name} is not a JSON object. Copy the model again.")
    return content


def _is_inside(path: Path, roots: list[Path]) -> bool:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return any(target.is_relative_to(root) for root in roots)


def _require_safetensors(path: Path, model: str) -> None:
    """Raise UserError unless the library can parse the header and its offsets match the file's size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        fault = "a pickle" if begins_like_a_pickle(path) else f"not a valid safetensors file ({error})"
        raise UserError(f"model {model!r}: {path.name} is {fault}. Copy the model again from its source.") from None


def _require_parts_in_folder(path: Path, model: str) -> None:
    """Raise UserError if an index of weights names anything but safetensors files in its own folder."""
    parts = read_json(path, model).get("weight_map", {})
    for name in sorted({str(part) for part in parts.values()}) if isinstance(parts, dict) else []:
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise UserError(
                f"model {model!r}: {path.name} names {name!r}, which is not a *.safetensors file in the same "
                "folder. Copy the model again from its source."
            )


def _nested_items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value, at any depth."""
    if isinstance(value, dict):
        yield from value.items()
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nested_items(item)
