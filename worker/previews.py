"""Small pictures of what a section looks like so far, told to the record while it is sampled.

A preview must cost the GPU nothing it would have to wait for: the picture is computed on the device
right after a step was queued, copied without waiting, and read once `Pace` found that step done.
The reporter's thread makes a JPEG of it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from framepack.generation.preview import LinearDecoder, fit_linear_decoder
from framepack.generation.section import Step
from framepack.presets import Models
from service.contract.events import Picture
from worker.lease import Lease
from worker.reporter import Reporter

SECONDS_BETWEEN = 0.5
CONTENT_TYPE = "image/jpeg"
_QUALITY = 75


class Previews:
    """Of one process: fits a decoder for each preset and size once.

    Args:
        reporter: Tells the record.
        clock: Monotonic seconds.
    """

    def __init__(self, reporter: Reporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._reporter = reporter
        self._clock = clock
        self._decoders: dict[tuple[str, tuple[int, int]], LinearDecoder] = {}

    def of(self, lease: Lease, models: Models, latent_size: tuple[int, int]) -> SectionPreviews:
        """The previews of a section about to be sampled."""
        key = (models.preset.name, latent_size)
        if key not in self._decoders:
            fitted = fit_linear_decoder(models.codec, latent_size)
            self._decoders[key] = fitted.to(models.device)
        return SectionPreviews(lease, self._decoders[key], self._reporter, self._clock)


class SectionPreviews:
    """Of one section; at most one picture is on its way."""

    def __init__(
        self,
        lease: Lease,
        decoder: LinearDecoder,
        reporter: Reporter,
        clock: Callable[[], float],
    ) -> None:
        self._lease = lease
        self._decoder = decoder
        self._reporter = reporter
        self._clock = clock
        self._pixels: Tensor | None = None
        self._step = 0
        self._last = clock()

    def queued(self, step: Step) -> None:
        """A step was queued on the device; it may not be done."""
        if self._pixels is not None or self._clock() - self._last < SECONDS_BETWEEN:
            return
        self._last = self._clock()
        self._step = step.index + 1
        with torch.inference_mode():
            self._pixels = _on_its_way(self._decoder.picture(step.estimate))

    def done(self, steps: int, total: int) -> None:
        """So many steps are done, and with the last of them whatever was queued before its end."""
        if self._pixels is None or steps < self._step:
            return
        pixels, self._pixels = self._pixels, None
        self._reporter.preview(self._lease, self._step, total, lambda: _picture(pixels))


def _on_its_way(pixels: Tensor) -> Tensor:
    """A copy on the CPU that is complete when what is queued now is done."""
    if pixels.device.type != "cuda":
        return pixels
    # Only a copy to page-locked memory does not make the CPU wait.
    target = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
    return target.copy_(pixels, non_blocking=True)


def _picture(pixels: Tensor) -> Picture:
    out = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(out, "JPEG", quality=_QUALITY)
    height, width, _ = pixels.shape
    return Picture(out.getvalue(), width=width, height=height, content_type=CONTENT_TYPE)
