"""One training, as the worker `adapter` runs it in a project, with all of its losses."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from embedded import Silent

DTYPE_VARIABLE = "FT_COMPUTE_DTYPE"
MEASURES = ("loss", "eval_loss", "grad_norm")


def train(item: dict[str, Any]) -> dict[str, Any]:
    """Train `experiment` on the rows in `data` from the model in `base`; its losses and gradient norms by step, speed
    and peak memory.

    device: `cpu` or `cuda:0`. dtype: the compute type. rollouts: for grpo a file with the answers of another training,
    which are used again; it is written if it is not there. may_be_missing: settings that this machine does not support
    are skipped. folder: gets the files of the training.
    """
    from gpu_parts.bench import Skipped

    from ft_pipeline.errors import UserError

    os.environ[DTYPE_VARIABLE] = item["dtype"]
    try:
        with _rollouts(item.get("rollouts")):
            return _train(item)
    except UserError as error:
        if item.get("may_be_missing"):
            raise Skipped(str(error)) from error
        raise


def _train(item: dict[str, Any]) -> dict[str, Any]:
    from gpu_parts.material import validated

    from ft_pipeline.job import Job
    from ft_pipeline.rewards.config import reward_config
    from ft_pipeline.settings.evaluation import EvaluationSettings
    from ft_pipeline.training import adapter

    settings = validated(item["experiment"])
    folder = Path(item["folder"])
    shutil.rmtree(folder, ignore_errors=True)  # a checkpoint would be continued
    out, work = folder / "out", folder / "work"
    for path in (out, work):
        path.mkdir(parents=True)
    config: dict[str, Any] = {"experiment": settings.model_dump(mode="json")}
    if settings.objective == "grpo":
        config["rewards"] = reward_config(folder, EvaluationSettings(), settings.grpo.rewards)
    inputs = {"training_data": Path(item["data"]), "base_model": Path(item["base"])}
    _reset_peak(item["device"])
    summary = adapter.run(Job("adapter", config, inputs, out, work, item["device"], Silent()))
    shutil.rmtree(work)
    history = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        **{name: [entry[name] for entry in history if name in entry] for name in MEASURES},
        **{name: summary[name] for name in ("tokens_per_second", "peak_memory_gb", "computed_in", "padding_free")},
        "adapter": str(out),
    }


def _reset_peak(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()


@contextmanager
def _rollouts(file: str | None) -> Iterator[None]:
    """Let grpo use the answers in `file`; or let it draw answers, and write them there.

    The devices draw other random numbers, so that their losses can only be compared on the same answers.
    """
    if file is None:
        yield
        return
    from ft_pipeline.rewards.rollouts import Rollouts

    path = Path(file)
    draws: list[Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    recorded: list[list[list[dict[str, Any]]]] = []  # by step and prompt, the answers
    draw = Rollouts.draw

    def record(*arguments: Any, **options: Any) -> Any:
        groups = draw(*arguments, **options)
        recorded.append([[_answer(rollout) for rollout in group] for group in groups])
        return groups

    def replay(_: Any, prompts: Any, *others: Any, **options: Any) -> Any:
        return [_as_rollouts(prompt, answers) for prompt, answers in zip(prompts, draws.pop(0), strict=True)]

    with patch.object(Rollouts, "draw", replay if draws else record):
        yield
    if recorded:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(recorded), encoding="utf-8")
    if draws:
        raise ValueError(f"{len(draws)} times answers were drawn less often than in the training that they are from")


def _answer(rollout: Any) -> dict[str, Any]:
    reward = rollout.reward
    return {"ids": rollout.ids, "cut": rollout.is_cut_off, "total": reward.total, "values": dict(reward.values)}


def _as_rollouts(prompt: Any, answers: list[dict[str, Any]]) -> list[Any]:
    from ft_pipeline.rewards.client import Reward
    from ft_pipeline.rewards.rollouts import Rollout

    return [
        Rollout(prompt, answer["ids"], answer["cut"], Reward(answer["total"], answer["values"])) for answer in answers
    ]
