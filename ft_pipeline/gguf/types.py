"""The types of GGUF files that a merged model is quantized to, by llama.cpp's names in lower case."""

from collections.abc import Collection, Sequence

from ft_pipeline.errors import UserError

GGUF_TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0"),
    *("q4_k_m", "q4_k_s", "q4_1", "q4_0", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"),
)
"""From the most exact to the smallest. Those that need an importance matrix (IQ…) are not among them."""
DEFAULT_GGUF_TYPE = "q8_0"


def unknown_type(names: Sequence[str]) -> str | None:
    """Return what is wrong with names of types, and how to fix it; None if all are known."""
    unknown = next((name for name in names if name not in GGUF_TYPES), None)
    if unknown is None:
        return None
    return f"{unknown!r} is not a GGUF type that is supported. Choose among {', '.join(GGUF_TYPES)}."


def parse_types(text: str) -> tuple[str, ...]:
    """Return the types of a comma-separated list, each once. UserError for an unknown one, or if there is none."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError(f"No GGUF type is given. Choose among {', '.join(GGUF_TYPES)}.")
    if problem := unknown_type(names):
        raise UserError(problem)
    return names


def in_order(names: Collection[str]) -> list[str]:
    """Return the types once each, from the most exact to the smallest."""
    return [name for name in GGUF_TYPES if name in names]
