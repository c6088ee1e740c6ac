"""What depends on prompt and timestep alone, kept from one section to the next.

All sections of a job have the same prompt (or few of them) and the same noise levels, so refined
text and the condition vector repeat, and with them every block's modulation. Kept, they are
computed once a job. The same tensors come back, so nothing rounds differently.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from framepack.models.base import TextCondition
from framepack.models.streaming import FetchedModule
from framepack.types import TextTokens

CAPACITY = 64
"""Steps kept: 25 of two guidance branches, and some. At 13 B parameters one is about 3 MB."""


def condition_key(condition: TextCondition, guidance_scale: float) -> str | None:
    """By content, so that a job's sections find each other wherever they were loaded from.

    Args:
        condition: Batches of more than one have no key.
        guidance_scale: Distilled guidance.
    """
    if condition.pooled.shape[0] > 1:
        return None
    digest = hashlib.sha256(f"{guidance_scale}".encode())
    for tensor in (condition.text, condition.pooled, condition.mask):
        if tensor is not None:
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class ConditionMemo:
    """The last conditions of a model whose weights no longer change, by condition and timestep."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, float], tuple[TextTokens, Tensor]] = OrderedDict()

    def get(
        self, key: str | None, timestep: Tensor, compute: Callable[[], tuple[TextTokens, Tensor]]
    ) -> tuple[TextTokens, Tensor]:
        """Refined text and condition vector, computed unless kept.

        Args:
            key: See `condition_key`; None computes. So does a timestep on another device than the
                CPU: to read it would wait for the device.
            timestep: (1,).
            compute: Makes them.
        """
        if key is None or timestep.device.type != "cpu":
            return compute()
        place = (key, timestep.item())
        if place in self._kept:
            self._kept.move_to_end(place)
        else:
            self._kept[place] = compute()
            if len(self._kept) > CAPACITY:
                self._kept.popitem(last=False)
        return self._kept[place]


class KeptModulation(nn.Module):
    """A block's modulation, kept for as long as the condition it belongs to."""

    def __init__(self, modulation: nn.Module) -> None:
        super().__init__()
        self.modulation = modulation
        self._kept = WeakTensorKeyDictionary()

    def anticipate(self, conditions: Sequence[Tensor]) -> None:
        """Keep what conditions that will come need, each computed as it would be then."""
        coming = [condition for condition in conditions if condition not in self._kept]
        call = self.modulation.forward
        if not coming:
            return
        with call.here() if isinstance(call, FetchedModule) else nullcontext():
            for condition in coming:
                self.forward(condition)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """See `Modulation.forward`."""
        if condition not in self._kept:
            self._kept[condition] = self.modulation(condition)
        found: tuple[Tensor, ...] = self._kept[condition]
        return found
