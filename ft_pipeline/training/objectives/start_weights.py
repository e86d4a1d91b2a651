"""The trained weights as they were when training began, for the log probabilities of the start."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ft_pipeline.training.trainer.loss import evaluation_mode


class StartWeights:
    """A copy of the trained weights of a model: of LoRA's matrices, or of all weights (`full`)."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._copies = [(weight, weight.detach().clone()) for weight in model.parameters() if weight.requires_grad]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute with the start's weights inside the context, without gradients and dropout."""
        current = [weight.data for weight, _ in self._copies]
        for weight, start in self._copies:
            weight.data = start
        try:
            with evaluation_mode(self._model):
                yield
        finally:
            for (weight, _), data in zip(self._copies, current, strict=True):
                weight.data = data
