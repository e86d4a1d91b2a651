"""The generation config of an exported model, so that it decodes as it was scored."""

import json
from pathlib import Path
from typing import Any

from ft_pipeline.models.chat import stop_strings

_SAMPLING_KEYS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Keys that affect sampled answers only."""
_METADATA_KEYS = ("_from_model_config", "transformers_version")
"""Keys that do not affect decoding."""


def load_tokenizer_lazily(folder: Path) -> Any:
    """Return the tokenizer of a model folder. transformers, whose import takes 1 to 2 seconds, is imported only now."""
    from ft_pipeline.models.load import load_tokenizer

    return load_tokenizer(folder)


def generation_config_as_scored(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Return a generation_config.json with which the model of `folder` decodes as it was scored: greedily, up to a stop
    token of the template, the tokenizer or the model.

    Other keys of the model's own file (such as a repetition penalty) were used during scoring, too. They are kept.
    """
    own_config = _read_if_present(folder / "generation_config.json")
    own_stops = own_config.get("eos_token_id", _read_if_present(folder / "config.json").get("eos_token_id"))
    stop_token_ids = {tokenizer.convert_tokens_to_ids(token) for token in stop_strings(tokenizer)}
    if own_stops is not None:
        stop_token_ids.update(own_stops if isinstance(own_stops, list) else [own_stops])
    kept = {key: value for key, value in own_config.items() if key not in (*_SAMPLING_KEYS, *_METADATA_KEYS)}
    pad_token_id = kept.get("pad_token_id", tokenizer.pad_token_id)
    return {**kept, "do_sample": False, "eos_token_id": sorted(stop_token_ids), "pad_token_id": pad_token_id}


def _read_if_present(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
