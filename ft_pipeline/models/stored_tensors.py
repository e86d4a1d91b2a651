"""Tensors of a model or a checkpoint, read in whole or in part: a rank that has some rows of a weight reads only those.

Ranks with sharded weights each write a file with their rows of every tensor, in the order of the ranks. So a checkpoint
can be read by any number of ranks, also by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in safetensors files: all of it in one, or its rows in several, one after the other."""

    files: Sequence[Path]
    key: str

    @property
    def shape(self) -> torch.Size:
        shapes = [self._shape(path) for path in self.files]
        return torch.Size([sum(shape[0] for shape in shapes), *shapes[0][1:]] if shapes[0] else [])

    def read(self) -> Tensor:
        """Return the whole tensor, in memory of its own: the pages of the file are released."""
        if len(self.files) > 1:
            return torch.cat([self._rows(path) for path in self.files])
        with safe_open(self.files[0], framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.key)
            return tensor.clone()

    def rows(self, begin: int, end: int) -> Tensor:
        """Return the rows from `begin` to `end`, without reading others."""
        parts, first = [], 0
        for path in self.files:
            count = self._shape(path)[0]
            parts.append(self._rows(path, max(begin - first, 0), max(end - first, 0)))
            first += count
        return torch.cat(parts)

    def _shape(self, path: Path) -> list[int]:
        with safe_open(path, framework="pt") as file:
            shape: list[int] = file.get_slice(self.key).get_shape()
            return shape

    def _rows(self, path: Path, begin: int = 0, end: int | None = None) -> Tensor:
        with safe_open(path, framework="pt") as file:
            rows: Tensor = file.get_slice(self.key)[begin:end]
            return rows.clone()


def tensor_names(path: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def own_rows(tensor: DTensor) -> tuple[int, int]:
    """Return which rows of a sharded tensor this rank has: the first, and the one after the last."""
    ranks = tensor.device_mesh.size()
    rows_per_rank = -(-tensor.shape[0] // ranks)
    begin = min(tensor.device_mesh.get_local_rank() * rows_per_rank, tensor.shape[0])
    return begin, begin + len(tensor.to_local())


@torch.no_grad()
def load_into(tensor: Tensor, stored: StoredTensor) -> None:
    """Copy a stored tensor into `tensor`, or this rank's rows if `tensor` is sharded. ValueError for another shape."""
    if tensor.shape != stored.shape:
        raise ValueError(f"{stored.key} has the shape {list(stored.shape)}, not {list(tensor.shape)}")
    if isinstance(tensor, DTensor):
        tensor.to_local().copy_(stored.rows(*own_rows(tensor)))
    else:
        tensor.copy_(stored.read())
