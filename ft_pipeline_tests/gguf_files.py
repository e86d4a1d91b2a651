"""A tiny model that is converted to GGUF once for all tests: the conversion starts a process that imports torch."""

from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.training.gguf.convert import convert
from ft_pipeline_tests.tiny_spm import spm_model


@dataclass(frozen=True)
class Converted:
    """A model folder, and its GGUF file in 32 bit."""

    model: Path
    exact: Path


def convert_tiny(folder: Path) -> Converted:
    """Make a model in `folder`, and convert it."""
    model = spm_model(folder / "model")
    convert(model, folder / "exact.gguf", "tiny")
    return Converted(model, folder / "exact.gguf")
