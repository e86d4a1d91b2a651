"""What the processes load: the guard must stay small, and the graph must not pull in torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "ft_pipeline.execution.workers.worker",
            "dagster dagster_pipes torch transformers pandas pyarrow psutil pydantic",
        ),
        ("ft_pipeline.clusters.slurm_agent", "dagster torch transformers pandas pyarrow"),  # and of a node
        ("ft_pipeline.execution.build", "torch transformers peft trl lm_eval datasets pandas"),
        ("ft_pipeline.store.artifacts", "dagster torch transformers pandas duckdb pydantic"),
        ("ft_pipeline.store.sql_views", "dagster torch transformers"),
        ("ft_pipeline.sources.snapshot", "dagster torch transformers pandas"),
        ("ft_pipeline.models.embeddings", "torch transformers"),
    ],
)
def test_nothing_heavy_is_imported(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({unwanted!r}.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
