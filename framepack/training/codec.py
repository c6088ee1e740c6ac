"""Train the autoencoder of ``tiny`` on the procedural world.

It starts from principal components (`framepack.training.codec_start`), then Muon moves convolutions
and AdamW the few parameters that are no matrices. The encoder is frozen for the first share of the
run, while the decoder learns what the start gives it, and then moves slowly; frozen throughout, it
is final from the start, and a transformer can be trained on its latents at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.training.codec_start import start_from_components
from framepack.training.limits import check_ranges
from framepack.training.muon import Muon
from framepack.training.rates import RateSchedule
from framepack.training.run import PEAK, Run, RunSettings, identity_of
from framepack.training.runlog import Figures
from framepack.world.render import render
from framepack.world.scene import FIRST_HELD_OUT_SEED, draw_scene


@dataclass(frozen=True)
class CodecTraining:
    """Settings of a run.

    Attributes:
        run: What all runs have.
        batch: Clips a step.
        frames: Pixel frames a clip, 1 + 4k.
        muon: Peak spectral step for convolutions.
        adamw: Peak rate for norms, biases and the outermost layers.
        encoder_rate: Share of both that the encoder gets, 0 while frozen.
        frozen: Share of the run in which the encoder stands still; 1 for always.
        deviation: Of the noise on latents; what the posterior's variance states.
        start_clips: Clips the start takes its statistics from.
        held_out: Clips the figures are measured on.
        pixels: Height and width.
    """

    run: RunSettings = field(
        default_factory=lambda: RunSettings(
            RateSchedule(1300, hold=0.3, final=0.02, decay="cosine"), average=0.99
        )
    )
    batch: int = 4
    frames: int = 9
    muon: float = 4e-3
    adamw: float = 6e-5
    encoder_rate: float = 0.3
    frozen: float = 0.4
    deviation: float = 0.082
    start_clips: int = 24
    held_out: int = 12
    pixels: int = 64

    def __post_init__(self) -> None:
        whole = (1, math.inf)
        check_ranges(self, "codec", batch=whole, start_clips=whole, held_out=whole, frozen=(0, 1))
        check_ranges(self, "codec", frames=whole, pixels=(8, math.inf))
        if self.frames % 4 != 1 or self.pixels % 8:
            raise InvalidRequest("codec", "frames must be 1 + 4k, pixels a multiple of 8")


def world_pixels(seeds: range, num_frames: int, pixels: int = 64) -> Tensor:
    """(b, 3, t, h, w) from -1 to 1: the beginnings of scenes."""
    frames = [
        torch.from_numpy(render(draw_scene(seed), num_frames, pixels).frames) for seed in seeds
    ]
    return torch.stack(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def peak_signal_to_noise(made: Tensor, true: Tensor) -> float:
    """In dB, pooled over everything; values from -1 to 1, clamped as a decoder's caller does."""
    return -10 * math.log10(((made.clamp(-1, 1) - true) / 2).square().mean().item())


def start_codec(vae: Any, settings: CodecTraining) -> float:
    """Give an autoencoder its start; returns the scaling factor of its latents' unit variance."""
    seed = settings.run.seed
    seeds = range(seed, seed + settings.start_clips)
    start_from_components(vae, world_pixels(seeds, 17, settings.pixels))
    return measure_scaling(vae, seeds, settings.pixels)


class CodecRun(Run[Any]):
    """Trains an AutoencoderKLHunyuanVideo."""

    def __init__(self, vae: Any, settings: CodecTraining, folder: Path) -> None:
        """Start a run, or resume the one whose state lies in the folder.

        Args:
            vae: After `start_codec`.
            settings: Of the whole run.
            folder: For state and log.

        Raises:
            InvalidRequest: The folder's state belongs to other settings.
        """
        self.settings = settings
        super().__init__(vae, settings.run, folder, identity_of(settings))
        self.optimizers = _optimizers(vae, settings)
        self.resume()

    def losses(self) -> Iterator[Tensor]:
        """Absolute and squared error, sharpness of edges, and latents that stay near zero."""
        settings = self.settings
        first = settings.run.seed + settings.start_clips + self.step * settings.batch
        pixels = world_pixels(
            range(first, first + settings.batch), settings.frames, settings.pixels
        )
        frozen = self.step < settings.frozen * settings.run.rates.steps
        generator = torch.Generator().manual_seed(settings.run.seed * 1_000_003 + self.step)
        with torch.set_grad_enabled(not frozen), self.autocast():
            mean = encode(self.model, pixels).float()
        noise = torch.randn(mean.shape, generator=generator)
        with self.autocast():
            made = decode(self.model, mean + settings.deviation * noise).float()
        error = made - pixels
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        size = mean.square().mean()
        yield error.abs().mean() + 4 * error.square().mean() + 0.5 * edges + 1e-4 * size

    def measure(self) -> Figures:
        """Signal to noise on held-out clips, without noise on the latents."""
        first = FIRST_HELD_OUT_SEED
        pixels = world_pixels(
            range(first, first + self.settings.held_out), 17, self.settings.pixels
        )
        with torch.inference_mode(), self.averaged() as vae, self.autocast():
            made = decode(vae, encode(vae, pixels)).float()
        return {"held_out_psnr": peak_signal_to_noise(made, pixels)}


def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Mean latents of whole clips, unscaled and not cut into the VAE's windows."""
    mean: Tensor = vae.quant_conv(vae.encoder(pixels)).chunk(2, dim=1)[0]
    return mean


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pixels of unscaled latents, as one window."""
    made: Tensor = vae.decoder(vae.post_quant_conv(latents))
    return made


def measure_scaling(vae: Any, seeds: range, pixels: int = 64) -> float:
    """The factor that gives latents unit variance; belongs into the VAE's configuration."""
    with torch.inference_mode():
        each = [encode(vae, world_pixels(range(s, s + 1), 17, pixels)) for s in seeds]
    return 1 / torch.cat(each).std().item()


def export_codec(vae: Any, scaling_factor: float, folder: Path) -> None:
    """Write a diffusers-style folder with half-precision weights."""
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    shipped = AutoencoderKLHunyuanVideo(**config | {"scaling_factor": scaling_factor})
    shipped.load_state_dict(vae.state_dict())
    shipped.half().save_pretrained(folder)


def _optimizers(vae: Any, settings: CodecTraining) -> list[torch.optim.Optimizer]:
    """Muon for inner convolutions, AdamW for the rest; the encoder at a rate of its own."""
    outermost = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "post_quant_conv")
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in vae.named_parameters():
        encoder = name.startswith(("encoder", "quant_conv"))
        matrix = parameter.ndim > 1 and not name.startswith(outermost)
        groups.setdefault((matrix, encoder), []).append(parameter)

    def of(matrix: bool, peak: float) -> list[dict[str, Any]]:
        return [
            {"params": groups[matrix, encoder], PEAK: peak * share}
            for encoder, share in ((False, 1.0), (True, settings.encoder_rate))
        ]

    adamw = of(matrix=False, peak=settings.adamw)
    return [
        Muon(of(matrix=True, peak=settings.muon)),
        torch.optim.AdamW(adamw, betas=(0.9, 0.98), weight_decay=0.0),
    ]
