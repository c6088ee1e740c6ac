"""Training with several processes, one a device: PyTorch's FSDP2 shards, this module only calls it.

Started by ``torchrun`` (or ``accelerate launch``, which sets the same environment), every process
takes its part of each step's batch, holds its shard of weights and optimiser state, and sees the
gradients' mean. The batch a step is the same whatever the number of processes, so is its loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from framepack.errors import InvalidRequest


@dataclass(frozen=True)
class Processes:
    """Which of how many this one is."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this one writes files and reports."""
        return self.rank == 0

    def mean(self, value: float) -> float:
        """Of one number a process."""
        if self.count == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(value, device=device)
        dist.all_reduce(total)
        return total.item() / self.count

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


def join_processes(device: str | None = None) -> tuple[Processes, torch.device]:
    """Meet the other processes of a launcher; without one, be alone.

    Args:
        device: Kind of device; default: CUDA if there is one. A launcher's processes of one machine
            take its GPUs in turn.

    Returns:
        The processes, and this one's device.

    Raises:
        InvalidRequest: There is no such device.
    """
    named = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(named)
    except RuntimeError:
        raise InvalidRequest("device", f"{named!r} is no device; use cpu or cuda") from None
    if not (dist.is_initialized() or dist.is_torchelastic_launched()):
        return Processes(), chosen
    if chosen.type == "cuda":
        chosen = torch.device("cuda", dist.get_node_local_rank(fallback_rank=0))
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size()), chosen


def shard(root: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Shard each block by itself and the rest together, in place: weights become DTensors.

    Every part gathers its weights for a pass and drops them after it, the rest too, so that between
    passes the model has nothing but its shards.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)


def local(tensor: Tensor) -> Tensor:
    """This process's shard, or the tensor itself; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All shards together, on every process; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
