"""The keys `gguf`: types of files of an experiment, by llama.cpp's names in lower case; limits in project.yaml."""

from collections.abc import Collection, Sequence
from typing import Self

from pydantic import Field, model_validator

from ft_pipeline.errors import UserError
from ft_pipeline.settings.feature_keys import FeatureKeys
from ft_pipeline.settings.yaml_file import Section, rule_error

GGUF_TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0"),
    *("q4_k_m", "q4_k_s", "q4_1", "q4_0", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"),
)
"""From the most exact to the smallest. Those that need an importance matrix (IQ…) are not among them."""
DEFAULT_GGUF_TYPE = "q8_0"


class ExperimentKeys(FeatureKeys):
    """What experiments/NAME.yaml may say."""

    gguf: list[str] = Field(default_factory=list)
    """Types of GGUF files that the merged model is quantized to, each scored by llama.cpp: `[q8_0, q4_k_m]`
    (docs/gguf.md). No step of the training depends on it."""

    @model_validator(mode="after")
    def _check_gguf(self) -> Self:
        if problem := unknown_type(self.gguf):
            raise rule_error("gguf", problem)
        if self.gguf and getattr(self, "technique", None) == "prompt_tuning":
            raise rule_error("gguf", "technique 'prompt_tuning' has no merged weights for a GGUF file. Remove `gguf`.")
        return self


class GgufLimits(Section):
    """What a GGUF file may cost against its merged model, in nats per token of the reference answers. `ft export`
    refuses a file that costs more."""

    max_loss_increase: float = Field(0.05, gt=0)
    """Limit for the upper 95 % bound of the increase in loss."""
    max_kl: float = Field(0.05, gt=0)
    """Limit for the mean KL(merged || GGUF)."""


class EvaluationKeys(FeatureKeys):
    """What the section `evaluation` of project.yaml may say."""

    gguf: GgufLimits = GgufLimits()


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
