"""The models a worker keeps loaded: the parts its lane needs, of every preset it serves.

Everything is loaded before the first task is taken: loading holds the interpreter for seconds at a
time, in which no lease could be renewed.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from framepack.models.fingerprint import Fingerprint
from framepack.presets import Models, Part, engine_fingerprint, load_preset
from service.contract.job import Lane
from worker.gpu import release_memory

log = logging.getLogger(__name__)

PARTS: Mapping[Lane, tuple[Part, ...]] = {
    Lane.RENDER: ("encoders", "transformer"),
    Lane.DELIVER: ("codec",),
}


class Engine:
    """The resident models of one lane.

    Args:
        lane: What the process serves.
        presets: By name.
        weights: Local folders by preset; others come from the hub or are shipped.
        device: Where they compute.
        placement: See `framepack.models.placement`.

    Raises:
        InvalidRequest: There is no such preset, folder or placement.
    """

    def __init__(
        self,
        lane: Lane,
        presets: Sequence[str],
        weights: Mapping[str, str],
        device: torch.device,
        placement: str = "resident",
    ) -> None:
        self.device = device
        self._parts = PARTS[lane]
        self._weights = weights
        self._models = {name: self._placed(name, placement) for name in presets}
        self._fingerprints: dict[str, Fingerprint] = {}

    def load(self) -> dict[str, float]:
        """Load everything now. Returns the seconds it took by preset. Raises WeightsError."""
        return {name: self._loaded(name) for name in self._models}

    def shrink(self, preset: str) -> bool:
        """Load a preset again with less of it on the device; it makes the same bytes, more slowly.

        Nothing else may hold its models meanwhile: both would lie on the device.

        Returns:
            Whether there was a smaller placement.

        Raises:
            WeightsError: The weights are gone.
        """
        placement = self._models[preset].placement.smaller()
        if placement is None:
            return False
        del self._models[preset]
        gc.collect()
        release_memory(self.device)
        self._models[preset] = self._placed(preset, str(placement))
        self._loaded(preset)
        log.warning("the device is too small: %s is placed as %s from now on", preset, placement)
        return True

    def fingerprints(self) -> dict[str, str]:
        """Engine fingerprint by preset."""
        return {name: self.fingerprint(name).short for name in self._models}

    def fingerprint(self, preset: str) -> Fingerprint:
        """What decides the bytes that a preset makes here; made once, as it hashes files."""
        if preset not in self._fingerprints:
            self._fingerprints[preset] = engine_fingerprint(self._models[preset], self._parts)
        return self._fingerprints[preset]

    def __getitem__(self, preset: str) -> Models:
        return self._models[preset]

    def _placed(self, name: str, placement: str) -> Models:
        return load_preset(name, _folder(self._weights, name), self.device, placement=placement)

    def _loaded(self, name: str) -> float:
        began = time.perf_counter()
        for part in self._parts:
            getattr(self._models[name], part)
        took = time.perf_counter() - began
        log.info("loaded %s of %s in %.1f s", ", ".join(self._parts), name, took)
        return took


def _folder(weights: Mapping[str, str], preset: str) -> Path | None:
    return Path(weights[preset]) if preset in weights else None
