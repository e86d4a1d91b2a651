"""Sizes of a decoder, from its config.json alone: the shapes of its matrices, whatever the architecture calls them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.settings.training import ALL_LINEAR

_CONFIG_KEYS = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "intermediate": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "positions": ("max_position_embeddings", "n_positions"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
}
"""The keys of each size in transformers' configs, the most common first."""
_UNGATED = frozenset(
    {
        "bloom",
        "codegen",
        "falcon",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "mpt",
        "nemotron",
        "opt",
        "phi",
        "starcoder2",
    }
)
"""Models whose MLP has no gate."""
_TIED_BY_DEFAULT = frozenset(
    {"bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "mpt", "opt"}
)
"""Models whose head shares the embeddings if config.json does not specify it."""
_LEARNED_POSITIONS = frozenset({"gpt2", "gpt_bigcode", "gpt_neo", "opt"})
"""Models with an embedding for each position."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder: in each layer attention, and one MLP or a mixture of experts."""

    hidden: int
    layers: int
    intermediate: int
    """Width of the MLP; with experts, of the part that all tokens use in addition (0 for none)."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    gated: bool = True
    """Whether the MLP has three matrices (Llama) or two (GPT-2)."""
    experts: int = 0
    """Number of experts of each layer."""
    expert_width: int = 0
    """Width of one expert."""
    active_experts: int = 0
    """Number of experts that a token uses."""
    positions: int = 0
    """Number of position embeddings, if the model learns them."""

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the matrices of one layer, by their names in Llama, without those of experts."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
        }
        up, down = (self.hidden, self.intermediate), (self.intermediate, self.hidden)
        mlp = {"gate_proj": up, "up_proj": up, "down_proj": down} if self.gated else {"up_proj": up, "down_proj": down}
        return (attention if self.heads else {}) | (mlp if self.intermediate else {})

    @property
    def matrix_params(self) -> int:
        """Number of parameters that NF4 packs: those of the layers' matrices. It does not pack experts, which are one
        parameter."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.matrices.values())

    @property
    def outside_params(self) -> int:
        """Number of parameters outside the layers: embeddings, head, and the last norm."""
        return (self.vocabulary * (1 if self.tied else 2) + self.positions) * self.hidden + self.hidden

    @property
    def params(self) -> int:
        experts = self.layers * self.experts * (3 * self.hidden * self.expert_width + self.hidden)
        return self.matrix_params + experts + 2 * self.layers * self.hidden + self.outside_params

    def target_names(self, targets: Sequence[str] | str) -> list[str]:
        """Return the matrices of a layer that LoRA adapts; all of them if the names are not Llama's."""
        named = [] if isinstance(targets, str) else [name for name in self.matrices if name in targets]
        return named or list(self.matrices)

    def adapter_params(self, r: int, targets: Sequence[str] | str) -> int:
        """Return the number of parameters of LoRA's A and B for the named matrices of every layer."""
        values = sum(sum(self.matrices[name]) for name in self.target_names(targets))
        if targets == ALL_LINEAR:  # gate and up are one matrix of twice the rank
            values += self.experts * (2 * (self.hidden + 2 * self.expert_width) + self.expert_width + self.hidden)
        return self.layers * r * values


def read_shape(config: dict[str, Any]) -> ModelShape:
    """Return the shape in a parsed config.json. UserError if it does not describe a decoder that can be counted."""
    config = config.get("text_config", config)
    model_type = config.get("model_type", "llama")
    hidden, layers = _required_size(config, "hidden"), _required_size(config, "layers")
    heads = _first_size(config, "heads") or 0  # none in a state space model, whose matrices are those of its MLP
    experts = _first_size(config, "experts") or 0
    # If config.json has no width, these models use four times the hidden size, as GPT-2 does.
    intermediate = _first_size(config, "intermediate") or (4 * hidden if model_type in _UNGATED else None)
    if intermediate is None:
        raise _missing_key("intermediate_size")
    expert_width = (config.get("moe_intermediate_size") or intermediate) if experts else 0
    return ModelShape(
        hidden=hidden,
        layers=layers,
        intermediate=_shared_width(config, expert_width) if experts else intermediate,
        heads=heads,
        kv_heads=_kv_heads(config, model_type, heads),
        head_dim=config.get("head_dim") or (hidden // heads if heads else 0),
        vocabulary=_required_key(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", model_type in _TIED_BY_DEFAULT)),
        gated=model_type not in _UNGATED,
        experts=experts,
        expert_width=expert_width,
        active_experts=config.get("num_experts_per_tok") or 2,
        positions=(_first_size(config, "positions") or 0) if model_type in _LEARNED_POSITIONS else 0,
    )


def nearest_llama(params: float) -> ModelShape:
    """Return the shape of the published Llama-like model whose size is nearest to `params`."""
    return min(_LLAMA_LIKE, key=lambda shape: max(shape.params / params, params / shape.params))


def _first_size(config: dict[str, Any], name: str) -> int | None:
    return next((config[key] for key in _CONFIG_KEYS[name] if config.get(key)), None)


def _required_size(config: dict[str, Any], name: str) -> int:
    if (size := _first_size(config, name)) is None:
        raise _missing_key(_CONFIG_KEYS[name][0])
    return size


def _required_key(config: dict[str, Any], key: str) -> int:
    if key not in config:
        raise _missing_key(key)
    value: int = config[key]
    return value


def _missing_key(key: str) -> UserError:
    return UserError(f"config.json has no {key!r}, which the memory estimate needs. Choose a decoder-only model.")


def _kv_heads(config: dict[str, Any], model_type: str, heads: int) -> int:
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    kv_heads: int = config.get("num_key_value_heads") or config.get("num_kv_heads") or heads
    return kv_heads


def _shared_width(config: dict[str, Any], expert_width: int) -> int:
    """Return the width of the experts that every token uses."""
    width: int = config.get("shared_expert_intermediate_size") or (config.get("n_shared_experts") or 0) * expert_width
    return width


_LLAMA_LIKE = (
    ModelShape(576, 30, 1536, 9, 3, 64, 49_152, True),
    ModelShape(2048, 22, 5632, 32, 4, 64, 32_000, False),
    ModelShape(3072, 28, 8192, 24, 8, 128, 128_256, True),
    ModelShape(4096, 32, 11_008, 32, 32, 128, 32_000, False),
    ModelShape(5120, 40, 13_824, 40, 40, 128, 32_000, False),
    ModelShape(8192, 80, 28_672, 64, 8, 128, 32_000, False),
)
"""SmolLM2-135M, TinyLlama-1.1B, Llama 3.2 3B, Llama 2 7B, 13B, 70B."""
