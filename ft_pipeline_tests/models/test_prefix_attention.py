"""A prefix that is stored once for all rows gives the distributions of whole contexts, up to rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ft_pipeline.models.decoding.batch_state import BatchState, can_share_prefix
from ft_pipeline.models.decoding.prefix_cache import compute_prefix_cache
from ft_pipeline.models.decoding.token_loop import Decoding, PromptBatch, generate_tokens
from ft_pipeline_tests.training.architectures import CONFIGS, tiny_model_of

PREFIX = torch.randint(3, 250, (90,), generator=torch.Generator().manual_seed(0)).tolist()
RESTS = [[5, 9, 11, 40, 7, 8], [30], [100, 4, 77], [60, 61, 62, 63]]
WIDTH = max(map(len, RESTS))
IDS = torch.tensor([[0] * (WIDTH - len(rest)) + rest for rest in RESTS])
MASK = torch.tensor([[1] * len(PREFIX) + [0] * (WIDTH - len(rest)) + [1] * len(rest) for rest in RESTS])
OTHER_ATTENTION = {"gemma2", "gemma3_text", "mistral"}


def load(folder: Path, dtype: torch.dtype = torch.float32, **keys: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **keys).eval()


def distributions(model: Any, steps: list[torch.Tensor], shared: bool = True) -> torch.Tensor:
    """Probabilities after the rest of each row and after each further token, [1 + steps, rows, vocabulary]."""
    with torch.inference_mode():
        state = BatchState(model, compute_prefix_cache(model, PREFIX), MASK, new_tokens=len(steps))
        assert state.shares_prefix is shared
        logits = [state.forward(ids)[:, -1] for ids in (IDS, *steps)]
    return torch.stack(logits).float().softmax(-1)


def alone(model: Any, steps: list[torch.Tensor]) -> torch.Tensor:
    """The same for whole contexts, row by row, without padding or cache."""
    more = torch.cat([torch.empty(len(RESTS), 0, dtype=torch.long), *steps], dim=1).tolist()
    with torch.inference_mode():
        rows = [
            model(input_ids=torch.tensor([PREFIX + rest + after])).logits[0, -len(steps) - 1 :]
            for rest, after in zip(RESTS, more, strict=True)
        ]
    return torch.stack(rows, dim=1).float().softmax(-1)


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind not in OTHER_ATTENTION])
def test_distributions_equal_those_of_whole_contexts(kind: str, tmp_path: Path) -> None:
    model = load(tiny_model_of(kind, tmp_path, **({"logits_scaling": 0.5} if kind == "granite" else {})))
    attention = model.config._attn_implementation
    steps = [torch.tensor([[7], [8], [9], [10]]), torch.tensor([[70], [80], [90], [100]])]
    expected = alone(model, steps)
    assert torch.allclose(distributions(model, steps), expected, atol=2e-5)
    assert float(expected.max()) > 0.05, "the model has opinions"
    assert model.config._attn_implementation == attention


def test_the_error_in_16_bit_is_about_that_of_a_copied_prefix(tiny_base: Path) -> None:
    model, exact = load(tiny_base, torch.bfloat16), load(tiny_base, torch.float32)
    steps = [torch.tensor([[7], [8], [9], [10]])]
    expected = alone(exact, steps)
    shared_error = (distributions(model, steps) - expected).abs().mean()
    model.set_attn_implementation("eager")
    copied_error = (distributions(model, steps, shared=False) - expected).abs().mean()
    assert shared_error < 1.5 * copied_error


def test_answers_equal_those_of_whole_contexts_when_rows_finish(tiny_base: Path) -> None:
    model = load(tiny_base)
    ids = torch.cat([torch.tensor([PREFIX] * len(RESTS)), IDS], dim=1)
    shared = PromptBatch(ids, MASK, 0, len(PREFIX), compute_prefix_cache(model, PREFIX))
    whole = PromptBatch(ids, MASK, 0)
    endless = generate_tokens(model, whole, Decoding([10_000], 16))
    decoding = Decoding([endless[0][3], endless[1][6]], 16)
    assert generate_tokens(model, shared, decoding) == generate_tokens(model, whole, decoding)
    assert shared.cache.get_seq_length() == len(PREFIX), "the prefix is unchanged"


def test_an_adapter_is_applied_with_a_shared_prefix(tiny_base: Path) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(load(tiny_base), config).eval()
    steps = [torch.tensor([[7], [8], [9], [10]])]
    expected = alone(model, steps)
    assert torch.allclose(distributions(model, steps), expected, atol=2e-5)
    with model.disable_adapter():
        assert not torch.allclose(alone(model, steps), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("gemma2", {"sliding_window": 4096, "layer_types": ["full_attention"] * 2}),
        ("llama", {"attn_implementation": "eager"}),
    ],
)
def test_models_with_other_attention_get_a_copied_prefix(kind: str, keys: dict[str, Any], tmp_path: Path) -> None:
    loading = {key: keys[key] for key in ("attn_implementation",) if key in keys}
    model = load(tiny_model_of(kind, tmp_path, **(keys if not loading else {})), **loading)
    steps = [torch.tensor([[7], [8], [9], [10]])]
    assert torch.allclose(distributions(model, steps, shared=False), alone(model, steps), atol=2e-5)


def test_models_with_other_attention_are_recognized(tiny_base: Path, tmp_path: Path) -> None:
    model = load(tiny_base)
    prefix = compute_prefix_cache(model, PREFIX)
    assert can_share_prefix(model, prefix)
    model.config.attn_logit_softcapping = 30.0
    assert not can_share_prefix(model, prefix)
    window = load(tiny_model_of("mistral", tmp_path))
    assert not can_share_prefix(window, compute_prefix_cache(window, PREFIX))
    model.config.attn_logit_softcapping = None
    prefix.layers[0].values = prefix.layers[0].values[..., :4]  # keys wider than values
    assert not can_share_prefix(model, prefix)
