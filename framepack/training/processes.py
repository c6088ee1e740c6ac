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
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


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


def join_processes(device: torch.device) -> Processes:
    """Meet the other processes of a launcher; without one, be alone."""
    if not dist.is_torchelastic_launched():
        return Processes()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size())


def shard(root: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Shard each block by itself and the rest together, in place: weights become DTensors."""
    for block in blocks:
        fully_shard(block)
    fully_shard(root)


def local(tensor: Tensor) -> Tensor:
    """This process's shard, or the tensor itself; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All shards together, on every process; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
