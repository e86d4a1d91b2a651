"""Check with a few tokens, before a model trains, that it works as the trainer assumes.

The trainer computes the logits itself, from the last hidden states and the head. It knows what most architectures add
to that. With any other architecture, a model would learn something else without an error. So would a model whose tokens
attend to later tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ft_pipeline.errors import UserError
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.models.model_structure import causal_lm, context_window
from ft_pipeline.models.soft_prompt import learned_prompt
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.loss import compute_logits, evaluation_mode, hidden_states

_PROBE_TOKENS = 12
"""Number of tokens that the model reads."""
_TOLERANCE = 0.1
"""Maximum mean difference, in standard deviations. 16-bit rounding gives about 0.01, a different computation almost
1."""


def require_causal(model: Any) -> None:
    """Raise UserError if `model` (a causal LM, with or without an adapter) computes its logits in a way that the
    trainer does not know, or lets a token see later tokens. The model's mode is restored."""
    causal = causal_lm(model)
    model_type = causal.config.get_text_config().model_type
    ids = _probe_ids(causal)
    with evaluation_mode(causal), compute_autocast(causal):  # as in training: flash attention accepts 16 bit only
        logits = causal(input_ids=ids, use_cache=False).logits
        trainer_logits = compute_logits(causal, causal.base_model(input_ids=ids, use_cache=False).last_hidden_state)
        ids[:, -1] = ids[:, 0]
        changed = causal(input_ids=ids, use_cache=False).logits
    if _differ(logits, trainer_logits):
        raise UserError(
            f"base_model: this trainer does not support how a {model_type} model computes its logits. Choose another "
            "architecture, such as llama, qwen3, gemma3 or mistral."
        )
    if _differ(logits[:, :-1], changed[:, :-1]):
        raise UserError(
            f"base_model: in this {model_type} model, tokens attend to later tokens, so it cannot generate text. "
            "Choose a causal language model, such as llama, qwen3, gemma3 or mistral."
        )


def require_room_for_prompt(model: Any, rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Raise UserError if the longest row does not fit after the learned prompt of `model`, if it has one."""
    prompt = learned_prompt(model)
    window = context_window(model.config)
    longest = max(len(row["input_ids"]) for split in rows.values() for row in split)
    if prompt is not None and window is not None and longest + len(prompt) > window:
        raise UserError(
            f"prompt_tuning.num_virtual_tokens is {len(prompt)} and the longest row has {longest} tokens, but the "
            f"model reads only {window}. Lower num_virtual_tokens, or shorten or remove the row."
        )


def states_of_rows(model: Any, *, end_to_end: bool = False) -> Tensor:
    """Return the last hidden states [tokens, width] of two short rows, concatenated. Each row is read separately, or
    both are laid end to end in one batch."""
    causal = causal_lm(model)
    ids = _probe_ids(causal)[0].tolist()
    rows = [{"input_ids": part, "labels": part} for part in (ids[: _PROBE_TOKENS // 3], ids[_PROBE_TOKENS // 3 :])]
    batches = [collate(rows, None)] if end_to_end else [collate([row], 0) for row in rows]
    with evaluation_mode(causal):
        states = [hidden_states(causal, _move(batch, causal.device))[0] for batch in batches]
    return torch.cat(states)


def keeps_rows_apart(separate: Tensor, end_to_end: Tensor) -> bool:
    """Whether rows end to end have the states of separate rows. Both arguments are results of states_of_rows."""
    return not _differ(separate, end_to_end)


def _move(batch: dict[str, Tensor], device: Any) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _probe_ids(causal: Any) -> Tensor:
    """Return ids [1, tokens] from the middle of the vocabulary, always the same."""
    vocabulary_size = causal.get_input_embeddings().num_embeddings
    return torch.linspace(vocabulary_size // 10, vocabulary_size // 2, _PROBE_TOKENS, device=causal.device).long()[None]


def _differ(first: Tensor, second: Tensor) -> bool:
    spread = first.float().std().clamp(min=1e-6)
    return bool((first.float() - second.float()).abs().mean() > _TOLERANCE * spread)
