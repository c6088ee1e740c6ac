"""Modules whose weights wait elsewhere and come to the device for the time they run.

A module's tensors lie in one run of bytes, so that one copy brings them all. Modules that run one
after the other, over and over, share two places on the device: while one computes in its place, the
next one's weights come into the other on a stream of their own. Memory on the device is two
modules' whatever their number, and nothing waits for the host.

On a CPU the host is the device: everything happens, copies included, except streams and pinning.
Tensors that oneDNN has packed have no bytes to lie elsewhere; they exist on CPUs alone and stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from framepack.models.float8 import from_float8, is_matrix, to_float8

Storage = Literal["model", "float8"]

_ALIGNMENT = 256
"""Bytes; what matrix products on GPUs want of their operands."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor belongs, and where its bytes lie."""

    owner: nn.Module
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    float8: bool

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * (1 if self.float8 else self.dtype.itemsize)

    @property
    def scales(self) -> slice:
        """Bytes of the scales, if it is float8."""
        first = _aligned(self.start + self.num_bytes)
        return slice(first, first + 4 * self.shape[0])

    @property
    def end(self) -> int:
        return _aligned(self.scales.stop if self.float8 else self.start + self.num_bytes)

    def write(self, run: Tensor) -> None:
        """Put the tensor's bytes into a run of bytes."""
        tensor = getattr(self.owner, self.name).detach()
        if self.float8:
            tensor, scale = to_float8(tensor)
            run[self.scales].view(torch.float32).copy_(scale.flatten())
        flat = run[self.start : self.start + self.num_bytes]
        flat.view(tensor.dtype).copy_(tensor.flatten())

    def read(self, run: Tensor) -> Tensor:
        """The tensor in a run of bytes: a view, unless it must become what it is computed with."""
        flat = run[self.start : self.start + self.num_bytes]
        if not self.float8:
            return flat.view(self.dtype).view(self.shape)
        scale = run[self.scales].view(torch.float32)[:, None]
        return from_float8(flat.view(torch.float8_e4m3fn).view(self.shape), scale, self.dtype)

    def put(self, tensor: Tensor) -> None:
        """Make it the module's."""
        if self.name in self.owner._parameters:
            self.owner.get_parameter(self.name).data = tensor
        else:
            self.owner._buffers[self.name] = tensor


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


class StoredWeights:
    """A module's weights as one run of bytes; the module itself keeps none."""

    def __init__(self, module: nn.Module, home: torch.device, storage: Storage) -> None:
        """Take the weights of a module, wherever they are.

        Args:
            module: Loses them.
            home: Where they are to wait.
            storage: ``float8`` for `is_matrix` ones, the rest as it is.
        """
        self._places, start = [], 0
        for prefix, owner in module.named_modules():
            named = {**owner._parameters, **owner._buffers}
            for name, tensor in named.items():
                if tensor is None or tensor.layout is not torch.strided or not tensor.numel():
                    continue
                float8 = storage == "float8" and is_matrix(f"{prefix}.{name}", tensor)
                place = _Place(owner, name, tuple(tensor.shape), tensor.dtype, start, float8)
                self._places.append(place)
                start = place.end
        run = torch.empty(start, dtype=torch.uint8)
        for place in self._places:
            place.write(run)
        pinned = home.type == "cpu" and torch.cuda.is_available()
        self.run = run.pin_memory() if pinned else run.to(home)
        self.clear()

    @property
    def num_bytes(self) -> int:
        """Of all tensors, gaps included."""
        return len(self.run)

    def fill(self, run: Tensor) -> None:
        """Give the module its weights from a copy of `run`."""
        for place in self._places:
            place.put(place.read(run))

    def clear(self) -> None:
        """Let the module hold nothing."""
        for place in self._places:
            place.put(torch.empty(0, dtype=place.dtype))


class FetchedModule:
    """A module that runs rarely: its weights come when it is called and go afterwards."""

    def __init__(self, module: nn.Module, home: torch.device, device: torch.device) -> None:
        """Take over a module.

        Args:
            module: Its forward pass is replaced.
            home: Where its weights wait.
            device: Where it computes.
        """
        self._forward, self._device = module.forward, device
        self._weights, self._is_here = StoredWeights(module, home, "model"), False
        module.forward = self

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The module's output."""
        with self.here():
            return self._forward(*inputs, **named)

    @contextmanager
    def here(self) -> Iterator[None]:
        """With the weights on the device, so that calls in between need no copy each."""
        if self._is_here:
            yield
            return
        run = self._weights.run
        self._weights.fill(run.to(self._device, non_blocking=True, copy=True))
        self._is_here = True
        try:
            yield
        finally:
            self._is_here = False
            self._weights.clear()


class _Slot:
    """A place on the device for one module's weights."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.run = torch.empty(size, dtype=torch.uint8, device=device)
        self.cuda = device.type == "cuda"
        self.filled: Any = torch.cuda.Event() if self.cuda else None  # type: ignore[no-untyped-call]
        self.read: Any = torch.cuda.Event() if self.cuda else None  # type: ignore[no-untyped-call]


class WeightStream:
    """The weights of modules that run in a fixed order, each coming in while the last one runs.

    ``copied`` counts copies to the device.
    """

    def __init__(self, device: torch.device, home: torch.device, storage: Storage) -> None:
        """Stream nothing yet; see `add`.

        Args:
            device: Where the modules compute.
            home: Where weights wait. At the device itself only float8 makes sense, which becomes
                what is computed with for the time of a run.
            storage: See `StoredWeights`.
        """
        self._device, self._home, self._storage = device, home, storage
        self._moves = home != device or device.type == "cpu"
        self._stored: list[StoredWeights] = []
        self._slots: list[_Slot] = []
        self._turn, self._coming = 0, -1
        self._side = self._new_stream()
        self.copied = 0

    def _new_stream(self) -> torch.cuda.Stream | None:
        if self._device.type != "cuda":
            return None
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def add(self, module: nn.Module) -> None:
        """Take over the next module in the order; its forward pass is replaced."""
        number, forward = len(self._stored), module.forward
        self._stored.append(StoredWeights(module, self._home, self._storage))

        def run(*inputs: Any, **named: Any) -> Any:
            with self._here(number):
                return forward(*inputs, **named)

        module.forward = run

    @contextmanager
    def _here(self, number: int) -> Iterator[None]:
        stored = self._stored[number]
        if not self._moves:
            stored.fill(stored.run)
            try:
                yield
            finally:
                stored.clear()
            return
        slot = self._take(number)
        following = (number + 1) % len(self._stored)
        self._start(following)
        stored.fill(slot.run)
        try:
            yield
        finally:
            stored.clear()
            if slot.cuda:
                slot.read.record(torch.cuda.current_stream(self._device))

    def _take(self, number: int) -> _Slot:
        """The place where a module's weights are; they have come when the device reads them."""
        if self._coming != number:  # the first run, or after one that was broken off
            self._start(number)
        slot = self._slots[self._turn]
        if slot.cuda:
            torch.cuda.current_stream(self._device).wait_event(slot.filled)
        self._coming = -1
        return slot

    def _start(self, number: int) -> None:
        """Bring a module's weights into the place that is free; the host does not wait."""
        if not self._slots:
            size = max(stored.num_bytes for stored in self._stored)
            self._slots = [_Slot(size, self._device) for _ in range(2)]
        self._turn, self._coming = 1 - self._turn, number
        slot, run = self._slots[self._turn], self._stored[number].run
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            if slot.cuda:
                self._side.wait_event(slot.read)  # type: ignore[union-attr]
            slot.run[: len(run)].copy_(run, non_blocking=True)
            if slot.cuda:
                slot.filled.record(self._side)
        self.copied += 1


def on_device(module: nn.Module, device: torch.device) -> None:
    """Let a module wait on the host and be on a device only while it is called.

    Args:
        module: Its forward pass is replaced; inputs come to the device, too.
        device: Where it computes.
    """
    forward = module.forward
    module.to("cpu")

    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    def run(*inputs: Any, **named: Any) -> Any:
        module.to(device)
        try:
            given = {name: moved(value) for name, value in named.items()}
            return forward(*map(moved, inputs), **given)
        finally:
            module.to("cpu")

    module.forward = run


def layers_of(module: nn.Module) -> nn.ModuleList | None:
    """The layers of an encoder: of its lists of modules, the one with the most parameters."""
    lists = [each for each in module.modules() if isinstance(each, nn.ModuleList)]
    return max(lists, key=_size, default=None)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
