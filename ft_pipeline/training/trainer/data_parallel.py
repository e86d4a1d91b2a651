"""Training by several processes (ranks): they divide each batch and, under FSDP2, also the weights.

The settings fix the batch size, whatever the number of ranks: each rank takes its share of the rows. So the same spec
takes the same steps everywhere, and training can resume with a different number of ranks.
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
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from ft_pipeline.job import Rank
from ft_pipeline.models.model_structure import decoder_layers
from ft_pipeline.models.stored_tensors import StoredTensor, own_rows

RANK_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others: rank 0 may be writing a large checkpoint."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Ranks:
    """Connects one rank to the others. All ranks must call every method except `share`, in the same order."""

    def __init__(self, rank: Rank | None = None, device: str = "cpu") -> None:
        rank = rank or Rank()
        self.number, self.count, self.sharded = rank.number, rank.count, rank.sharded
        self._reshard = rank.reshard
        self._device = torch.device(device)
        self._sharded_module: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that writes."""
        return self.number == 0

    @property
    def are_several(self) -> bool:
        return self.count > 1

    def share(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield this rank's part of `items`, equally many on each rank: (item, whether it counts or is a filler)."""
        for begin in range(0, len(items), self.count):
            position = begin + self.number
            yield (items[position], True) if position < len(items) else (items[0], False)

    def sum_over_ranks(self, *numbers: float) -> list[float]:
        """Return each number, summed over the ranks."""
        if not self.are_several:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        dist.all_reduce(sums)
        return sums.tolist()

    def is_set_on_any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum_over_ranks(float(flag))[0] > 0

    def wait(self) -> None:
        """Wait until every rank has called this."""
        if self.are_several:
            dist.barrier()

    def gather_values(self, value: Item) -> list[Item]:
        """Return the values of all ranks, in the order of the ranks."""
        if not self.are_several:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def shard(self, model: Any, fill: Callable[[Any], None]) -> None:
        """Shard the weights of `model` among the ranks (FSDP2), one layer after the other. `fill` is called before a
        module is sharded, and reads its weights."""
        for layer in decoder_layers(model):
            fill(layer)
            fully_shard(layer, mesh=self._mesh(), reshard_after_forward=self._reshard)
        fill(model)
        self._sharded_module = fully_shard(_RankModule(model), mesh=self._mesh())

    def run(self, function: Callable[..., Result], model: Any, *arguments: Any) -> Result:
        """Return function(model, *arguments), which may run the model, without gradients. Sharded weights are gathered
        as the model needs them, so all ranks must run it equally often."""
        if self._sharded_module is None:
            return function(model, *arguments)
        result: Result = self._sharded_module(function, *arguments)
        self._sharded_module.reshard()  # else the weights outside the layers stay gathered until a backward pass
        return result

    def wrap(self, model: Any) -> Any:
        """Return a module that is called with a function of the model and its further arguments, so that the hooks of
        DDP and FSDP2 run."""
        if self._sharded_module is not None:
            return self._sharded_module
        # Otherwise each rank would hold every gradient twice.
        return DistributedDataParallel(_RankModule(model), gradient_as_bucket_view=True)

    def _mesh(self) -> Any:
        """Return the device mesh of all ranks."""
        return init_device_mesh(self._device.type, (self.count,))


class _RankModule(nn.Module):
    """A model whose forward pass is a function of it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return function(self.model, *arguments)


def read_optimizer_state(state: dict[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Return the state of an optimizer with each StoredTensor read. Of a tensor with the shape of its parameter, only
    the rows that this rank has of the parameter are read."""
    return state | {
        "state": {index: _read_like(parameters[int(index)], values) for index, values in state["state"].items()}
    }


def _read_like(parameter: Tensor, value: Any) -> Any:
    """Return a stored tensor, sharded like its parameter if both have the same shape. Those in mappings are read too,
    and other values are returned."""
    if isinstance(value, dict):
        return {key: _read_like(parameter, item) for key, item in value.items()}
    if not isinstance(value, StoredTensor):
        return value
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value.read()
    rows = value.rows(*own_rows(parameter)).to(parameter.device)
    return DTensor.from_local(
        rows, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )


class RankBatches(Sampler[list[int]]):
    """This rank's rows of each batch. Empty if a batch has too few rows."""

    batch_size = None
    """Batches may have different sizes (accelerate reads this)."""
    drop_last = False

    def __init__(self, batches: Any, ranks: Ranks) -> None:
        """batches: lists of row indices, with set_epoch."""
        self._batches = batches
        self._ranks = ranks

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        self._batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self._batches:
            yield rows[self._ranks.number :: self._ranks.count]


@contextmanager
def join_ranks(rank: Rank, device: str) -> Iterator[Ranks]:
    """Yield the Ranks of this process, connected to the other ranks if there are any."""
    if rank.count == 1:
        yield Ranks()
        return
    if device != "cpu":
        torch.cuda.set_device(device)
    store = dist.FileStore(str(rank.meeting), rank.count)
    backend = "gloo" if device == "cpu" else "nccl"
    dist.init_process_group(backend, store=store, rank=rank.number, world_size=rank.count, timeout=RANK_TIMEOUT)
    yield Ranks(rank, device)
    # Not after an error: the other ranks would fail at once, and could report that before this one reports the cause.
    dist.destroy_process_group()
