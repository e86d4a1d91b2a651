"""`ft memory`: estimate the memory of training before anything is loaded."""

from typing import Annotated, Any

import typer

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import experiment_names
from ft_pipeline.cli.display import show_memory
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.settings.distill import OWN_PROMPT
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.training.memory.estimate import estimate_experiment, estimate_memory
from ft_pipeline.training.memory.layer_sizes import nearest_llama
from ft_pipeline.training.memory.parts import MemoryPlan


@command
def memory(
    project: UnopenedProject,
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", "-e", help="Estimate for this experiment.", autocompletion=experiment_names),
    ] = None,
    params: Annotated[
        float | None,
        typer.Option("--params", help="Estimate for a Llama-like model with this many parameters, such as 7e9."),
    ] = None,
    technique: Annotated[
        str, typer.Option("--technique", help="Technique: prompt_tuning, lora, qlora or full.")
    ] = "qlora",
    optimizer: Annotated[
        str, typer.Option("--optimizer", help="Optimizer: adamw_torch, adamw_8bit or paged_adamw_8bit.")
    ] = "paged_adamw_8bit",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Data type of weights, gradients and optimizer states.")
    ] = "bfloat16",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows per forward pass.")] = 1,
    length: Annotated[int, typer.Option("--length", min=1, help="Length of the longest row in tokens.")] = 2048,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Use gradient checkpointing.")] = False,
    gpu_memory_gb: Annotated[
        float | None, typer.Option("--gpu-memory-gb", min=0.1, help="Memory of the GPU in GB (1 GB = 10^9 bytes).")
    ] = None,
) -> Answer:
    """Estimate the memory that training needs, and suggest settings that fit.

    Example: ft memory --params 7e9 --technique full --optimizer adamw_torch --gpu-memory-gb 24
    """
    if (experiment is None) == (params is None):
        raise UserError(
            "Exactly one of --experiment and --params is required. Use --experiment NAME, or --params N such as 7e9."
        )
    if experiment is not None:
        result = _estimate_for_experiment(project.open(), experiment, gpu_memory_gb)
    else:
        assert params is not None
        if not 1e6 <= params <= 1e13:
            raise UserError(f"--params {params:g} is not a plausible model size. Use, for example, 7e9 for 7 billion.")
        plan = MemoryPlan(technique, optimizer, dtype, batch, length, checkpointing)
        result = estimate_memory(nearest_llama(params), plan, params=params, gpu_memory_gb=gpu_memory_gb)
    return Answer(result, show_memory)


def _estimate_for_experiment(project: Project, name: str, gpu_memory_gb: float | None) -> dict[str, Any]:
    """Return the estimate for the longest row that the token audit counted, or for `max_length` without an audit."""
    from ft_pipeline.models.base_model import load_config

    settings = project.experiment(name)
    training_data = current_artifact(ArtifactStore(project.store), "training_data", name)
    longest_row = training_data.summary["audit"]["lengths"]["max"] if training_data else None
    gpu_memory = gpu_memory_gb or settings.gpu.min_memory_gb or None
    distill, teacher = settings.distill, None
    if distill is not None and distill.on_policy and distill.teacher != OWN_PROMPT:
        teacher = load_config(distill.teacher, distill.revision)
    config = load_config(settings.base_model, settings.revision)
    return estimate_experiment(settings, config, longest_row, gpu_memory, teacher=teacher)
