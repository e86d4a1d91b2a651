"""The project's trainer as the worker `adapter` builds it, without evaluations and checkpoints while it trains."""

from pathlib import Path
from typing import Any


def new_trainer(
    base: Path, settings: Any, train: list[dict[str, Any]], folder: Path, device: str = "cpu", **more: Any
) -> Any:
    """The trainer of the experiment's objective for the rows `train`, in the compute type of the device.

    settings: ExperimentSettings with a learning rate. folder: what transformers calls the output; nothing is saved.
    more: further arguments of the trainer (`rewards` of grpo).
    """
    import torch

    from ft_pipeline.models.compute_dtype import compute_dtype
    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.training.objectives.registry import OBJECTIVES
    from ft_pipeline.training.techniques import new_model
    from ft_pipeline.training.trainer.acceleration import speed_up
    from ft_pipeline.training.trainer.arguments import training_arguments
    from ft_pipeline.training.trainer.token_trainer import TrainerSetup

    dtype = torch.bfloat16 if settings.training.pure_bf16 else compute_dtype(device)
    arguments = training_arguments(settings.training, folder, device, dtype)
    arguments.eval_strategy = arguments.save_strategy = "no"
    model = new_model(base, settings, device)
    speed_up(model, settings.training, device)
    trainer = OBJECTIVES[settings.objective].trainer
    setup = TrainerSetup(settings, model, load_tokenizer(base), train, train[:1], arguments)
    return trainer.for_experiment(setup, **more)
