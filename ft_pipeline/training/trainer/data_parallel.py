"""Training by several processes (ranks) at once: they divide each batch, under FSDP2 also the weights.

A batch is the settings' own, whatever the number of ranks: each takes its share of the rows. So the same spec takes the
same steps everywhere, and a training that one number of ranks began may be finished by another.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from ft_pipeline.job import Rank
from ft_pipeline.models.model_structure import layers

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others: rank 0 may be writing a large checkpoint."""
Item = TypeVar("Item")
LossFunction = Callable[[Any, dict[str, Tensor]], tuple[Tensor, Tensor]]
"""(model, batch) → (summed loss, the number of items that it is a sum over), scalars."""


class Ranks:
    """What one rank knows of the others; every method but `share` is to be called by all of them, in the same order."""

    def __init__(self, rank: Rank | None = None, device: str = "cpu") -> None:
        rank = rank or Rank()
        self.number, self.count, self.sharded = rank.number, rank.count, rank.sharded
        self._reshard = rank.reshard
        self._device = torch.device(device)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes."""
        return self.number == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    def share(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """This rank's part of `items`, as many for each rank: (item, whether it counts; else it only fills up)."""
        for begin in range(0, len(items), self.count):
            mine = begin + self.number
            yield (items[mine], True) if mine < len(items) else (items[0], False)

    def total(self, *numbers: float) -> list[float]:
        """Each number, summed over the ranks."""
        if not self.several:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        dist.all_reduce(sums)
        return sums.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.total(float(flag))[0] > 0

    def wait(self) -> None:
        """Until every rank is here."""
        if self.several:
            dist.barrier()

    def gather(self, value: Item) -> list[Item]:
        """Every rank's value, by rank."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def shard(self, model: Any) -> None:
        """Under FSDP2, divide the weights of each layer among the ranks; the rest follows in `wrap`."""
        if not self.sharded:
            return
        for layer in layers(model):
            fully_shard(layer, mesh=self._mesh(), reshard_after_forward=self._reshard)

    def wrap(self, model: Any, loss: LossFunction) -> nn.Module:
        """A module whose forward pass is `loss`, so that DDP's and FSDP2's hooks see it."""
        module: nn.Module = _Loss(model, loss)
        if self.sharded:
            fully_shard(module, mesh=self._mesh())
            return module
        return DistributedDataParallel(module)

    def whole(self, value: Any) -> Any:
        """`value` with its tensors whole on every rank; mappings, lists and plain values stay what they are."""
        if isinstance(value, DTensor):
            return value.full_tensor()
        if isinstance(value, dict):
            return {key: self.whole(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.whole(each) for each in value)
        return value

    def divided(self, state: dict[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
        """An optimizer's whole state, each tensor divided as the parameter that it belongs to."""
        return state | {
            "state": {
                number: {key: _like(parameters[int(number)], each) for key, each in own.items()}
                for number, own in state["state"].items()
            }
        }

    def _mesh(self) -> Any:
        return init_device_mesh(self._device.type, (self.count,))


class _Loss(nn.Module):
    def __init__(self, model: Any, loss: LossFunction) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self._loss(self.model, batch)


def _like(parameter: Tensor, value: Any) -> Any:
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


class RankBatches(Sampler[list[int]]):
    """This rank's rows of each batch of `batch_size` rows of `sampler`; none where a batch is too small."""

    def __init__(self, sampler: Any, batch_size: int, ranks: Ranks) -> None:
        self._sampler = sampler
        self.batch_size = batch_size
        self._ranks = ranks
        self.drop_last = False

    def __len__(self) -> int:
        return -(-len(self._sampler) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self._sampler)
        for begin in range(0, len(rows), self.batch_size):
            yield rows[begin : begin + self.batch_size][self._ranks.number :: self._ranks.count]


@contextmanager
def joined(rank: Rank, device: str) -> Iterator[Ranks]:
    """This rank, with the others where there are any."""
    if rank.count == 1:
        yield Ranks()
        return
    if device != "cpu":
        torch.cuda.set_device(device)
    store = dist.FileStore(str(rank.meeting), rank.count)
    backend = "gloo" if device == "cpu" else "nccl"
    dist.init_process_group(backend, store=store, rank=rank.number, world_size=rank.count, timeout=PATIENCE)
    yield Ranks(rank, device)
    # Not after an error: the others would notice at once, and might end, and be heard, before this one has said why.
    dist.destroy_process_group()
