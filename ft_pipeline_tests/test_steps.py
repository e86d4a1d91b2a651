"""What each step with a file in steps/ promises, and what its worker does first."""

import subprocess
import sys
from typing import Annotated

import pytest

from ft_pipeline.execution.metadata import metadata_of_page
from ft_pipeline.execution.workers.worker import WORKERS
from ft_pipeline.page import Page, Table, Words
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.step import StepConfig, only, spec_of
from ft_pipeline.steps import NAMES, load_step

HEAVY = ("dagster", "torch", "transformers")


def loaded_by(code: str) -> set[str]:
    """Return which of the heavy modules a new process has after running `code`."""
    process = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*[name for name in {HEAVY} if name in sys.modules])"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(process.stdout.split())


def test_importing_a_step_imports_neither_dagster_nor_torch() -> None:
    files = [*NAMES, "raw", "tables"]
    code = f"""
import importlib
for name in {files}:
    importlib.import_module("ft_pipeline.steps." + name)
    if "dagster" in sys.modules or "torch" in sys.modules:
        raise SystemExit("too much is imported by " + name)
"""
    assert loaded_by(code) == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_describes_its_step(name: str) -> None:
    step = load_step(name)
    assert step.name == name and name not in WORKERS
    assert (step.run or step.build) and step.page and "**Look here**" in step.description


def test_a_worker_imports_torch_before_its_gpu_is_looked_at() -> None:
    """A step imports torch only while it works. By then the process must be seeded."""
    code = "from ft_pipeline.execution.workers.worker import WORKERS, _worker_function as find\n"
    assert loaded_by(f"{code}find('merged_model', WORKERS)") >= {"torch"}


def test_a_kind_without_a_worker_is_named() -> None:
    code = "from ft_pipeline.execution.workers.worker import WORKERS, _worker_function as find\n"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        loaded_by(f"{code}find('experiment', WORKERS)")
    assert "no worker function for 'experiment'" in failed.value.stderr


def test_a_config_is_hashed_with_some_keys_and_read_with_all() -> None:
    class Config(StepConfig):
        experiment: Annotated[ExperimentSettings, only("technique", "merge", "distill")]

    settings = ExperimentSettings(technique="lora", description="Not hashed.")
    spec = spec_of("merged_model", {}, Config(experiment=settings), libraries=("torch",))
    assert spec.config == {"experiment": settings.model_dump(mode="json", include={"technique", "merge", "distill"})}
    assert "distill" not in spec.config["experiment"] and spec.versions.keys() == {"torch"}
    read = Config.of(spec)
    assert read.experiment == ExperimentSettings(technique="lora")
    assert read.model_dump(mode="json") == spec.config


def test_a_page_is_shown_in_its_order() -> None:
    page: Page = {"said": Words("It fits."), "rows": Table([{"a": 1, "b": "x"}], {"b": "a letter"}), "count": 3}
    shown = metadata_of_page(page)
    assert list(shown) == ["said", "rows", "count"] and shown["count"] == 3
    assert shown["said"].md_str == "It fits."
    assert [column.name for column in shown["rows"].schema.columns] == ["b", "a"]
