"""Fixtures that several stages share."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ft_pipeline_tests.gguf_files import Converted

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test connects to the Hugging Face Hub
for name in ("FT_KEYS", "FT_LEASE_DIR"):
    # No test writes keys to the home of the user. Tests that run in parallel do not wait for each other's device.
    os.environ[name] = tempfile.mkdtemp(prefix="ft-tests-")
    atexit.register(shutil.rmtree, os.environ[name], ignore_errors=True)


def _load_definitions() -> None:
    """Load the graph for the project of this repository.

    A process loads it once, for the project that it finds. Without this, that would be the project of any test.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_PROJECT", str(Path(__file__).parent.parent))
        patch.delenv("DAGSTER_HOME", raising=False)
        from ft_pipeline.definitions import defs

        defs()


_load_definitions()


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> "Converted":
    """A tiny model and its GGUF file in 32 bit."""
    pytest.importorskip("llama_cpp_py_sync")
    from ft_pipeline_tests.gguf_files import convert_tiny

    return convert_tiny(tmp_path_factory.mktemp("converted"))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with tokenizer and chat template, as a `base_model` artifact's folder."""
    from ft_pipeline_tests.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny") / "base", initializer_range=0.2)
