"""Measure the error of 4-bit quantization: of the base, of merging, and of the merged model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ft_pipeline.training.merging.equivalence import Measurement, kl_divergences

PAIRS = (
    ("base", "base_4bit"),
    ("adapter", "merged"),
    ("adapter", "merged_4bit"),
    ("merged", "merged_4bit"),
)
"""Pairs of models that are compared. They show the error of quantizing the base, of merging, and (twice) of quantizing
the merged model, as a 4-bit server does."""


@dataclass(frozen=True)
class NoiseLine:
    """One line of the table, on the held-out answers."""

    first: str
    second: str
    kl: float
    """KL(first || second), nats per token."""
    first_loss: float
    second_loss: float
    """Nats per answer token."""

    @property
    def difference(self) -> float:
        """How much worse the second model is, in nats per answer token."""
        return self.second_loss - self.first_loss


def noise_table(measured: Mapping[str, Measurement], device: str = "cpu") -> list[dict[str, float | str]]:
    """Return a line, as JSON with its `difference`, for each of PAIRS whose two models are in `measured`. It is
    computed on `device`."""
    pairs = [(first, second) for first, second in PAIRS if first in measured and second in measured]
    lines = [
        NoiseLine(first, second, kl, measured[first].loss, measured[second].loss)
        for (first, second), kl in kl_divergences(measured, pairs, device).items()
    ]
    return [{**asdict(line), "difference": line.difference} for line in lines]
