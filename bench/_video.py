"""A long video of `tiny` for measurements below the service: a plan, its models, its latents."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from framepack.generation.conditioning import Conditioning
from framepack.generation.encode import encode
from framepack.generation.history import History
from framepack.generation.orders import ORDERS
from framepack.generation.plan import GenerationRequest, Plan, plan_generation
from framepack.presets import Models, load_preset

PROMPT = "a red ball slides left and right over a plain navy background"


def long_plan(sections: int, order: str, steps: int | None = None) -> Plan:
    """A plan of any number of sections, beyond what the service accepts."""
    request = GenerationRequest(prompt=PROMPT, seconds=1.2, steps=steps, order=order)
    plan = plan_generation(request, (64, 64))
    return replace(plan, sections=ORDERS[order].sections(sections, plan.schedule))


@dataclass(frozen=True)
class Video:
    """A plan with everything that sampling or delivering one of its sections needs.

    Latents are random: what they are changes no amount of work, and every frame exists, so that a
    section can be measured without all those before it.
    """

    plan: Plan
    models: Models
    conditioning: Conditioning
    latents: Tensor

    @classmethod
    def make(cls, plan: Plan) -> Video:
        """Load `tiny`, encode a picture, and draw the latents."""
        models = load_preset("tiny", device="cpu")
        image = np.array(Image.open(io.BytesIO(picture())).resize((plan.width, plan.height)))
        conditioning = encode(models.encoders, plan, image)
        _, channels, _, height, width = conditioning.start.shape
        shape = (1, channels, plan.num_latent_frames, height, width)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return cls(plan, models, conditioning, latents)

    def latents_of(self, frames: Sequence[int]) -> Tensor:
        """(1, c, n, h, w) of latent frame numbers."""
        return self.latents[:, :, list(frames)]

    def history(self) -> History:
        """All frames of the video."""
        made = History(self.conditioning.start)
        made.add(range(1, self.plan.num_latent_frames), self.latents[:, :, 1:])
        return made


def picture() -> bytes:
    """A start picture, PNG."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((256, 256)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
