"""What an objective is to improve on held-out rows. Importing this does not import torch."""

from dataclasses import dataclass
from typing import Literal

HELD_OUT = "held_out.json"
"""The file of an adapter, and of a checkpoint, with the measures of each held-out conversation (HeldOutValues)."""
LearnsFrom = Literal["answers", "preferences", "rewards"]
"""answers: it imitates texts, or a teacher. preferences, rewards: its answers get better without imitating."""


@dataclass(frozen=True)
class Target:
    """A held-out measure, and the words for it."""

    measure: str
    """Its name in the log of the training, such as `eval_loss`."""
    label: str
    """How a sentence about the target begins."""
    unit: str = ""
    """After a value. `share`: it is shown in percent."""
    lower_is_better: bool = False
    at_start: float | None = None
    """Its value before training, if that is known by definition, and higher is better. None: it is measured."""


LOSS = Target("eval_loss", "Held-out loss", "nats per token", lower_is_better=True)
