"""A worker's settings: the deployment's, and a few that only workers have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from service.contract.settings import Settings


class WorkerSettings(Settings):
    """What an entry point of this package reads from the environment (``FRAMEPACK_*``).

    Attributes:
        drain_seconds: After SIGTERM, how long the task in work may go on before it is given back
            unfinished. None lets it end, which takes as long as a section takes.
        placement: What of the models lies on the device and what waits on the host: ``resident``,
            ``staged``, ``streamed``, ``streamed:BLOCKS``, each with or without ``+float8``.
            `framepack plan-memory` says what fits.
        device_tflops: Dense bf16 TFLOP/s of the device, which model-FLOP utilisation is measured
            against; None takes the maker's number for devices that are known.
    """

    drain_seconds: Annotated[float, Field(ge=0)] | None = None
    placement: str = "resident"
    device_tflops: Annotated[float, Field(gt=0)] | None = None
