"""What a job took: told by workers with each commit, counted by the record in the same step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Spent:
    """What one attempt took that its worker alone knows.

    Attributes:
        steps: Denoising steps done.
        skipped: Evaluations of the model that a step cache estimated instead.
        vram: Most GPU memory that tensors held, in bytes; None on a CPU.
    """

    steps: int = 0
    skipped: int = 0
    vram: int | None = None

    def for_script(self) -> dict[str, int]:
        """For the record's script; a null of JSON is not Lua's nil."""
        known = {"steps": self.steps, "skipped": self.skipped, "vram": self.vram}
        return {name: value for name, value in known.items() if value}


class JobMetrics(BaseModel):
    """What a job has taken so far. Attempts that were lost count nowhere, as they do in no bill.

    Attributes:
        queue_seconds: From its acceptance until a worker began it; null while it waits.
        gpu_seconds: Of render workers: encoding and sampling. What usage and limits count.
        deliver_seconds: Of deliver workers: decoding, mp4, upload.
        steps: Denoising steps, of all sections.
        skipped_steps: Evaluations of the model that a step cache estimated instead.
        peak_vram_bytes: Most GPU memory that tensors held during one task; null on a CPU.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    queue_seconds: float | None = None
    gpu_seconds: float = 0.0
    deliver_seconds: float = 0.0
    steps: int = 0
    skipped_steps: int = 0
    peak_vram_bytes: int | None = None


def metrics_in(fields: Mapping[str, str]) -> JobMetrics:
    """The metrics in a stored record. Raises ValueError."""

    def number(name: str) -> int:
        return int(fields.get(name, 0))

    started = number("started")
    return JobMetrics(
        queue_seconds=round((started - number("created")) / 1000, 3) if started else None,
        gpu_seconds=number("render.spent") / 1000,
        deliver_seconds=number("deliver.spent") / 1000,
        steps=number("steps"),
        skipped_steps=number("skipped"),
        peak_vram_bytes=number("vram") or None,
    )
