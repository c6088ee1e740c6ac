"""What is on the device when: from everything always to two blocks at a time.

``resident``: everything, always.
``staged``: the transformer without its blocks' modulations, a quarter of the weights, needed
once a job; encoders layer by layer and the codec while they are called.
``streamed``: of the transformer what surrounds the blocks, and two blocks at a time.
``streamed:N``: the same, with the first N blocks staying.

``+hostcodec`` behind any of them decodes on the host, in its precision: slowly, but the pixels of a
window take more memory than two blocks do. ``+float8`` behind any of them stores the blocks'
matrices in eight bits, which halves what lies on the device or travels to it, and is lossy
(`framepack.models.float8`); on a CPU, fp32 matrices that oneDNN has packed are only rounded as
float8 would be, which shows the error and saves nothing. ``+float8mm`` instead also multiplies in
float8, where the device has a kernel for it. Everything else changes where weights
wait, not what is computed: the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import nn

from framepack.errors import InvalidRequest
from framepack.models.conditions import KeptModulation
from framepack.models.float8 import require_kernel, round_to_float8
from framepack.models.fused import FusedLinear
from framepack.models.streaming import (
    FetchedModule,
    WeightStream,
    layers_of,
    on_device,
)

Policy = Literal["resident", "staged", "streamed"]

_FORM = re.compile(
    r"(?P<policy>[a-z]+)(:(?P<blocks>\d{1,3}))?(?P<float8>\+float8(mm)?)?(?P<host>\+hostcodec)?"
)


@dataclass(frozen=True)
class Placement:
    """A placement, as its text says it.

    Attributes:
        policy: See the module.
        resident_blocks: Of ``streamed``, how many blocks stay on the device.
        float8: Whether blocks' matrices are stored as float8.
        host_codec: Whether the codec computes on the host.
        float8_products: Whether blocks' matrices are float8 and multiplied as such.
    """

    policy: Policy = "resident"
    resident_blocks: int = 0
    float8: bool = False
    host_codec: bool = False
    float8_products: bool = False

    @classmethod
    def parse(cls, text: str) -> Placement:
        """``POLICY[:BLOCKS][+float8|+float8mm][+hostcodec]``.

        Raises:
            InvalidRequest: It is none.
        """
        match = _FORM.fullmatch(text)
        policies: dict[str, Policy] = {name: name for name in get_args(Policy)}
        policy = None if match is None else policies.get(match["policy"])
        if match is None or policy is None or (match["blocks"] and policy != "streamed"):
            raise InvalidRequest(
                "placement",
                f"write one of: {', '.join(policies)}, streamed:BLOCKS; each may end in +float8 or "
                "+float8mm, in +hostcodec, or in both in this order",
            )
        return cls(
            policy,
            int(match["blocks"] or 0),
            match["float8"] == "+float8",
            match["host"] is not None,
            match["float8"] == "+float8mm",
        )

    def smaller(self) -> Placement | None:
        """The next that keeps less on the device and gives the same bits; None after the last."""
        if self.policy == "streamed":
            return replace(self, resident_blocks=0) if self.resident_blocks else None
        return replace(self, policy="staged" if self.policy == "resident" else "streamed")

    def __str__(self) -> str:
        """What `parse` reads."""
        blocks = f":{self.resident_blocks}" if self.resident_blocks else ""
        float8 = "+float8" * self.float8 + "+float8mm" * self.float8_products
        return f"{self.policy}{blocks}{float8}{'+hostcodec' * self.host_codec}"


RESIDENT = Placement()


class Placing:
    """Brings one preset's models to where a placement wants them."""

    def __init__(self, placement: Placement, device: torch.device) -> None:
        self.placement, self.device = placement, device
        self._host = torch.device("cpu")
        storage: Literal["model", "float8"] = "float8" if placement.float8 else "model"
        self._staying = WeightStream(device, device, storage)
        self._streamed = WeightStream(device, self._host, storage)
        self._blocks = 0
        self.exact: list[str] = []
        """Of ``+float8mm``, the layers that no kernel takes, which stay as they are."""
        if placement.float8_products:
            require_kernel(device)

    @property
    def loading(self) -> torch.device:
        """Where weights are read to."""
        simple = self.placement.policy == "resident" and not self.placement.float8
        return self.device if simple else self._host

    @property
    def codec_device(self) -> torch.device:
        """Where the codec computes."""
        return self._host if self.placement.host_codec else self.device

    @contextmanager
    def settle(self, block: nn.Module, blocks: nn.ModuleList, number: int) -> Iterator[None]:
        """A block on the device while it takes its form; afterwards its form where it waits."""
        block.to(self.device)
        if self.placement.float8 and self.device.type == "cpu":
            round_to_float8(block)
        yield
        form, placement = blocks[number], self.placement
        if placement.float8_products:
            self._use_float8(form)
        if placement.policy != "resident" or placement.float8:
            home = self.device if placement.policy == "resident" else self._host
            for module in form.modules():
                if isinstance(module, KeptModulation):
                    FetchedModule(module.modulation, home, self.device)
        stays = placement.policy != "streamed" or self._blocks < placement.resident_blocks
        if not stays:
            self._streamed.add(form)
        elif placement.float8:
            self._staying.add(form)
        self._blocks += 1

    def _use_float8(self, form: nn.Module) -> None:
        linear = {n: m for n, m in form.named_modules() if isinstance(m, FusedLinear)}
        if not linear:
            raise InvalidRequest(
                "placement", "+float8mm is for HunyuanVideo's transformers; use +float8"
            )
        stayed = [name for name, layer in linear.items() if not layer.use_float8()]
        self.exact += [f"{self._blocks}.{name}" for name in stayed]

    def bring_rest(self, model: nn.Module) -> None:
        """What surrounds the blocks to the device; blocks that wait hold nothing to bring."""
        model.to(self.device)

    def encoder(self, module: nn.Module) -> None:
        """Let an encoder come for its calls, the layers of a large one one by one."""
        if self.placement.policy == "resident":
            module.to(self.device)
            return
        layers = layers_of(module)
        if layers is not None:
            stream = WeightStream(self.device, self._host, "model")
            for layer in layers:
                stream.add(layer)
        on_device(module, self.device)

    def codec(self, module: nn.Module) -> None:
        """Let a part of a codec come for its calls."""
        if self.placement.policy == "resident" or self.placement.host_codec:
            module.to(self.codec_device)
        else:
            on_device(module, self.device)
