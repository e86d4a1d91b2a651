"""The project's trainer as the worker `adapter` builds it, without evaluations and checkpoints while it trains."""

from pathlib import Path
from typing import Any


def new_trainer(base: Path, settings: Any, train: list[dict[str, Any]], folder: Path) -> Any:
    """An AnswerTrainer for the rows `train` (`input_ids`, `labels`) on the CPU, in the machine's compute type.

    settings: ExperimentSettings with a learning rate. folder: what transformers calls the output; nothing is saved.
    """
    from ft_pipeline.models.compute_dtype import compute_dtype
    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.training.techniques import new_model
    from ft_pipeline.training.trainer.acceleration import speed_up
    from ft_pipeline.training.trainer.arguments import training_arguments
    from ft_pipeline.training.trainer.token_trainer import TokenTrainer

    arguments = training_arguments(settings.training, folder, "cpu", compute_dtype("cpu"))
    arguments.eval_strategy = arguments.save_strategy = "no"
    model = new_model(base, settings, "cpu")
    speed_up(model, settings.training, "cpu")
    return TokenTrainer(model, load_tokenizer(base), train, train[:1], arguments)
