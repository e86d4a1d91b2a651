"""What a model's own generation config says, and what greedy decoding takes of it: how to compute, and where to stop.

Greedy means the most probable token of the model itself, whatever runs it: transformers, vLLM, llama.cpp or Ollama.
Penalties, forbidden tokens, shortest lengths and beams of the model's maker do not apply.
"""

import json
from pathlib import Path
from typing import Any

from ft_pipeline.models.chat import stop_strings

COMPUTING_KEYS = (
    "use_cache",
    "cache_implementation",
    "cache_config",
    "compile_config",
    "disable_compile",
    "prefill_chunk_size",
)
"""How tokens are computed, but not which ones."""
_LENGTH_KEYS = ("max_length", "max_new_tokens")
_NEUTRAL_VALUES: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "sequence_bias": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "num_beams": 1,
    "num_beam_groups": 1,
}
"""Keys that would change greedy answers, with the values with which they change nothing."""


def load_tokenizer_lazily(folder: Path) -> Any:
    """Return the tokenizer of a model folder. transformers, whose import takes 1 to 2 seconds, is imported only now."""
    from ft_pipeline.models.load import load_tokenizer

    return load_tokenizer(folder)


def ignored_while_decoding(folder: Path) -> dict[str, list[str]]:
    """Return what the specs of a model's answers contain if its own generation config would change them: its keys.

    Older versions obeyed them, so that these answers are made again. Empty for other models, whose specs stay.
    """
    own_config = _read_if_present(folder / "generation_config.json")
    ignored = [key for key, neutral in _NEUTRAL_VALUES.items() if own_config.get(key, neutral) not in (None, neutral)]
    return {"ignored_while_decoding": sorted(ignored)} if ignored else {}


def generation_config_as_scored(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Return a generation_config.json with which the model of `folder` decodes as it was scored: greedily, up to a stop
    token of the template, the tokenizer or the model."""
    own_config = _read_if_present(folder / "generation_config.json")
    own_stops = own_config.get("eos_token_id", _read_if_present(folder / "config.json").get("eos_token_id"))
    stop_token_ids = {tokenizer.convert_tokens_to_ids(token) for token in stop_strings(tokenizer)}
    if own_stops is not None:
        stop_token_ids.update(own_stops if isinstance(own_stops, list) else [own_stops])
    kept = {key: own_config[key] for key in ("bos_token_id", *_LENGTH_KEYS, *COMPUTING_KEYS) if key in own_config}
    pad_token_id = own_config.get("pad_token_id", tokenizer.pad_token_id)
    return {**kept, "do_sample": False, "eos_token_id": sorted(stop_token_ids), "pad_token_id": pad_token_id}


def _read_if_present(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
