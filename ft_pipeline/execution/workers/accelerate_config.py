"""How many processes train and how they share a model, from the environment and from a file of `accelerate config`.

Only settings for where and how a training runs are read. A setting that would change the result (`mixed_precision`)
belongs to the experiment: the same spec is the same training, however it was started.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.errors import UserError

COUNT = "FT_NUM_PROCESSES"
CONFIG = "FT_ACCELERATE_CONFIG"
DDP_TYPES = ("NO", "MULTI_GPU", "MULTI_CPU")


@dataclass(frozen=True)
class Processes:
    """The processes of one training."""

    count: int
    sharded: bool = False
    """FSDP2; otherwise DDP."""
    reshard: bool = True


def processes_of(environment: Mapping[str, str], device: str) -> Processes:
    """Return the processes: FT_NUM_PROCESSES, else the file's `num_processes`, else one per leased GPU (one on a CPU).

    Raises UserError for a file with unsupported settings, and for more processes than leased GPUs.
    """
    path = environment.get(CONFIG)
    given = _read(Path(path)) if path else {}
    gpus = len(environment.get("CUDA_VISIBLE_DEVICES", "").split(",")) if device != "cpu" else 0
    wanted = environment.get(COUNT) or given.get("num_processes")
    count = max(1, gpus) if wanted is None else _number(wanted)
    if gpus and count > gpus:
        raise UserError(f"{count} processes for {gpus} leased GPU(s). Set gpu.count of the experiment to {count}.")
    fsdp = given.get("fsdp_config") or {}
    sharded = given.get("distributed_type") == "FSDP"
    if sharded and str(fsdp.get("fsdp_version", 1)) != "2":
        raise UserError(
            f"{CONFIG}: fsdp_version is {fsdp.get('fsdp_version', 1)!r}. Set `fsdp_version: 2` in fsdp_config."
        )
    reshard = fsdp.get("fsdp_reshard_after_forward", True)
    if sharded and not isinstance(reshard, bool):
        raise UserError(f"{CONFIG}: fsdp_reshard_after_forward is {reshard!r}. Set it to true or false.")
    return Processes(count, sharded and count > 1, bool(reshard))


def _read(path: Path) -> dict[str, Any]:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{CONFIG}={path} cannot be read ({error}). Write it with `accelerate config`.") from error
    if not isinstance(given, dict):
        raise UserError(f"{CONFIG}={path} is not a configuration file. Write one with `accelerate config`.")
    kind = given.get("distributed_type", "NO")
    if kind not in (*DDP_TYPES, "FSDP"):
        raise UserError(f"{CONFIG}={path}: distributed_type {kind!r} is not supported. Set MULTI_GPU or FSDP.")
    if not isinstance(given.get("fsdp_config") or {}, dict):
        raise UserError(f"{CONFIG}={path}: fsdp_config is {given['fsdp_config']!r}. Indent its keys below it.")
    machines = given.get("num_machines") or 1
    if machines != 1:
        raise UserError(f"{CONFIG}={path}: num_machines is {machines}, but a training runs on one. Set it to 1.")
    return given


def _number(text: Any) -> int:
    if not str(text).isdecimal() or int(text) < 1:
        raise UserError(f"{text!r} is not a number of processes. Set {COUNT} to 1 or more.")
    return int(text)
