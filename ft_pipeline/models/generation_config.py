"""The generation config of an exported model, so that it decodes as it was scored."""

import json
from pathlib import Path
from typing import Any

from ft_pipeline.models.chat import stop_strings

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_NOT_SETTINGS = ("_from_model_config", "transformers_version")


def load_text_side(folder: Path) -> Any:
    """Return the tokenizer of a model folder, with its chat template. Importing transformers takes 1 to 2 seconds."""
    from ft_pipeline.models.load import load_tokenizer

    return load_tokenizer(folder)


def decoding_as_scored(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Return a generation_config.json with which the model of `folder` decodes as it was scored: greedily, up to any
    stop token that scoring knows (the template's, the tokenizer's, the model's own).

    Other keys of the model's own file (such as a repetition penalty) applied during scoring, and are kept.
    """
    own = _read(folder / "generation_config.json")
    configured = own.get("eos_token_id", _read(folder / "config.json").get("eos_token_id"))
    known = configured if isinstance(configured, list) else [] if configured is None else [configured]
    stops = {tokenizer.convert_tokens_to_ids(token) for token in stop_strings(tokenizer)} | set(known)
    kept = {key: value for key, value in own.items() if key not in (*_SAMPLING, *_NOT_SETTINGS)}
    padding = kept.get("pad_token_id", tokenizer.pad_token_id)
    return {**kept, "do_sample": False, "eos_token_id": sorted(stops), "pad_token_id": padding}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
