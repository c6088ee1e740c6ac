"""How many bytes a computation holds at once, counted operation by operation, without a device.

On the meta device this costs no memory and no arithmetic, so the largest model can be asked before
there is anything to run it on. Attention counts as fused kernels do it: without the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of results that are alive, inputs and weights left out.

    ``peak`` is the most that was alive at once. What a kernel borrows while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, then count."""
        given = {self._key(leaf) for leaf in tree_leaves((args, kwargs)) if _is_plain(leaf)}
        out = func(*args, **(kwargs or {}))
        self._forget()
        for leaf in tree_leaves(out):
            if _is_plain(leaf) and (key := self._key(leaf)) not in given:
                storage = leaf.untyped_storage()
                seen = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._alive[key] = seen, storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out

    def _forget(self) -> None:
        gone = [k for k, (seen, _) in self._alive.items() if seen.expired()]  # type: ignore[no-untyped-call]
        for key in gone:
            del self._alive[key]

    @staticmethod
    def _key(tensor: Tensor) -> int:
        key: int = tensor.untyped_storage()._cdata
        return key


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


class FusedAttention(TorchFunctionMode):
    """Attention that only has a result, as it is where the scores are never written."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run anything else as it is."""
        if func is F.scaled_dot_product_attention:
            query, value = args[0], args[2]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def peak_bytes(call: Callable[[], Any]) -> int:
    """The most bytes that a computation holds at once beside what it is given."""
    counted = LiveBytes()
    with FusedAttention(), counted:
        call()
    return counted.peak
