"""How many processes train and how they share a model, from the environment and from a file of `accelerate config`.

Of the file, only settings for where and how a training runs are read. A setting that would change its result, such as
`mixed_precision`, belongs to the experiment, so that a spec gives the same result however it is started.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.settings.bounded_yaml import load_bounded

NUM_PROCESSES = "FT_NUM_PROCESSES"
"""Environment variable: the number of processes of a training."""
ACCELERATE_CONFIG = "FT_ACCELERATE_CONFIG"
"""Environment variable: the path of a file of `accelerate config`."""
DDP_TYPES = ("NO", "MULTI_GPU", "MULTI_CPU")
"""Values of `distributed_type` for which every process has the whole model."""


@dataclass(frozen=True)
class Processes:
    """The processes of one training."""

    count: int
    sharded: bool = False
    """FSDP2; otherwise DDP."""
    reshard: bool = True
    """FSDP2: whether a layer's weights are divided again between its forward and backward pass."""


def read_processes(environment: Mapping[str, str], device: str) -> Processes:
    """Return the processes: FT_NUM_PROCESSES, else the file's `num_processes`, else one per leased GPU (one on a CPU).

    Raises UserError for a file with unsupported settings, and for more processes than leased GPUs.
    """
    path = environment.get(ACCELERATE_CONFIG)
    config = _read_config(Path(path)) if path else {}
    count = _process_count(environment, config, device)
    sharded = config.get("distributed_type") == "FSDP"
    fsdp = config.get("fsdp_config") or {}
    if sharded:
        _check_fsdp(fsdp)
    return Processes(count, sharded and count > 1, bool(fsdp.get("fsdp_reshard_after_forward", True)))


def _read_config(path: Path) -> dict[str, Any]:
    """The settings in the file. Raises UserError if it cannot be read, or describes an unsupported training."""
    try:
        config = load_bounded(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{ACCELERATE_CONFIG}={path} cannot be read ({error}). Write it with `accelerate config`."
        ) from error
    if not isinstance(config, dict):
        raise UserError(f"{ACCELERATE_CONFIG}={path} is not a configuration file. Write one with `accelerate config`.")
    kind = config.get("distributed_type", "NO")
    if kind not in (*DDP_TYPES, "FSDP"):
        raise UserError(
            f"{ACCELERATE_CONFIG}={path}: distributed_type {kind!r} is not supported. Set MULTI_GPU or FSDP."
        )
    if not isinstance(config.get("fsdp_config") or {}, dict):
        raise UserError(
            f"{ACCELERATE_CONFIG}={path}: fsdp_config is {config['fsdp_config']!r}. Indent its keys below it."
        )
    machines = config.get("num_machines") or 1
    if machines != 1:
        raise UserError(
            f"{ACCELERATE_CONFIG}={path}: num_machines is {machines}, but a training runs on one. Set it to 1."
        )
    return config


def _process_count(environment: Mapping[str, str], config: Mapping[str, Any], device: str) -> int:
    gpus = len(environment.get("CUDA_VISIBLE_DEVICES", "").split(",")) if device != "cpu" else 0
    setting = environment.get(NUM_PROCESSES) or config.get("num_processes")
    count = max(1, gpus) if setting is None else _parse_count(setting)
    if gpus and count > gpus:
        raise UserError(f"{count} processes for {gpus} leased GPU(s). Set gpu.count of the experiment to {count}.")
    return count


def _parse_count(setting: Any) -> int:
    if not str(setting).isdecimal() or int(setting) < 1:
        raise UserError(f"{setting!r} is not a number of processes. Set {NUM_PROCESSES} to 1 or more.")
    return int(setting)


def _check_fsdp(fsdp: Mapping[str, Any]) -> None:
    version = fsdp.get("fsdp_version", 1)
    if str(version) != "2":
        raise UserError(f"{ACCELERATE_CONFIG}: fsdp_version is {version!r}. Set `fsdp_version: 2` in fsdp_config.")
    reshard = fsdp.get("fsdp_reshard_after_forward", True)
    if not isinstance(reshard, bool):
        raise UserError(f"{ACCELERATE_CONFIG}: fsdp_reshard_after_forward is {reshard!r}. Set it to true or false.")
