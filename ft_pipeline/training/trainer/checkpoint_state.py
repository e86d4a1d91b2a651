"""Save and load what training needs, apart from the weights, to resume exactly: optimizer, schedule, random generators.

transformers pickles this state. Here it is a tree of plain values in JSON, with its tensors in a safetensors file. So a
checkpoint cannot run code when training resumes from it, even if someone else has written to it.

If weights are sharded among ranks (FSDP2), each rank writes its rows of the sharded tensors to a file of its own.
torch.distributed.checkpoint is not used: it pickles its index.
"""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from ft_pipeline.models.stored_tensors import StoredTensor

Plain = None | bool | int | float | str
"""Values that JSON keeps as they are."""


def save_tree(folder: Path, name: str, value: Any, rank: int = 0) -> None:
    """Write `value` to NAME.json and NAME.safetensors: mappings, lists, tuples, arrays, tensors and plain values.

    All ranks call this if `value` has sharded tensors. Each one writes its rows to NAME-shard-RANK.safetensors, and
    rank 0 the rest. TypeError for anything else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    tree = _flatten(value, tensors)
    shards = {key: _owned(tensor.to_local()) for key, tensor in tensors.items() if isinstance(tensor, DTensor)}
    if shards:
        save_file(shards, _shard_file(folder, name, rank))
    if rank == 0:
        whole = {key: _owned(tensor) for key, tensor in tensors.items() if key not in shards}
        save_file(whole, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")


def load_tree(folder: Path, name: str) -> Any:
    """Return the value that `save_tree` wrote, with whole tensors on the CPU."""
    return _unflatten(_read_tree(folder, name), lambda node: _stored(folder, name, node).read())


def open_tree(folder: Path, name: str) -> Any:
    """Return the value that `save_tree` wrote, with a StoredTensor in place of each tensor."""
    return _unflatten(_read_tree(folder, name), lambda node: _stored(folder, name, node))


def _read_tree(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def _stored(folder: Path, name: str, node: list[Any]) -> StoredTensor:
    """Return the tensor of a node of the tree: [key], or [key, number of ranks] if it is sharded."""
    key, *ranks = node
    if not ranks:
        return StoredTensor([folder / f"{name}.safetensors"], key)
    return StoredTensor([_shard_file(folder, name, rank) for rank in range(ranks[0])], key)


def _shard_file(folder: Path, name: str, rank: int) -> Path:
    return folder / f"{name}-shard-{rank}.safetensors"


def _owned(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on the CPU: safetensors takes no shared memory."""
    return tensor.detach().cpu().contiguous().clone()


def random_state() -> dict[str, Any]:
    """Return the state of the generators of Python, numpy and torch, including every GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the generators to a result of `random_state`, including those of the GPUs that this machine has.

    GPUs without a saved state are seeded from the state of the first one.
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    states = state["cuda"]
    if not states or not torch.cuda.is_available():
        return
    torch.cuda.init()
    for device in range(torch.cuda.device_count()):
        if device < len(states):
            torch.cuda.set_rng_state(states[device], device)
        else:
            torch.cuda.default_generators[device].manual_seed(_seed_of(states[0], device))


def _seed_of(state: torch.Tensor, device: int) -> int:
    """Return a seed (63 bits) that differs between devices and is always the same for the same state."""
    digest = hashlib.sha256(f"{device}:".encode() + bytes(state.tolist())).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return `value` with each container as [kind, items], and each tensor as the name of its entry in `tensors`."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return ["tensor", name, value.device_mesh.size()] if isinstance(value, DTensor) else ["tensor", name]
    if isinstance(value, np.ndarray):
        return ["array", value.dtype.str, value.tolist()]
    if isinstance(value, dict):
        return ["dict", [[_checked_key(key), _flatten(item, tensors)] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return ["tuple" if isinstance(value, tuple) else "list", [_flatten(item, tensors) for item in value]]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Plain):
        return value
    raise TypeError(f"a checkpoint can contain plain values and tensors, not {type(value).__name__}")


def _checked_key(key: Any) -> Any:
    """Return `key`. TypeError if JSON cannot keep it."""
    if isinstance(key, (str, int)):
        return key
    raise TypeError(f"the keys of a checkpoint must be strings or integers, not {type(key).__name__}")


def _unflatten(tree: Any, tensor: Callable[[list[Any]], Any]) -> Any:
    """Return the value from which _flatten made `tree`. tensor: returns the tensor of a node."""
    if not isinstance(tree, list):
        return tree
    kind, *content = tree
    if kind == "tensor":
        return tensor(content)
    if kind == "array":
        return np.array(content[1], dtype=content[0])
    if kind == "dict":
        return {key: _unflatten(item, tensor) for key, item in content[0]}
    items = [_unflatten(item, tensor) for item in content[0]]
    return tuple(items) if kind == "tuple" else items
