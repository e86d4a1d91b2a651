"""A tiny model that is converted to GGUF once for all tests: the conversion starts a process that imports torch."""

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ft_pipeline.training.gguf.convert import convert
from ft_pipeline_tests.tiny_spm import spm_model


@dataclass(frozen=True)
class Converted:
    """A model folder, and its GGUF file in 32 bit."""

    model: Path
    exact: Path


def convert_tiny(folder: Path) -> Converted:
    """Make a model in `folder`, and convert it. What another process has made there is kept, or waited for."""
    made = Converted(folder / "model", folder / "exact.gguf")
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not made.exact.exists():
            convert(spm_model(made.model), made.exact, "tiny")
    return made
