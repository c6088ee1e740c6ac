"""``framepack codebook fit``: a codebook of discretised history from data (section 3.3.2).

The data is a folder of videos and pictures, which the preset's codec encodes once into a temporary
folder, or of safetensors files with latents, such as a training's cache, which are read where they
lie. Either way one clip at a time is in memory, however often k-means passes over them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from framepack.drift.codebook import FitOptions, fit_codebook
from framepack.errors import InvalidRequest, MediaError
from framepack.generation.seeds import start_generator
from framepack.media.buckets import nearest_bucket
from framepack.media.images import fit_image, open_image
from framepack.media.videos import probe_video
from framepack.models.vae import HunyuanVideoCodec
from framepack.presets import Models
from framepack.training.cache import encode_video
from framepack.training.files import SUFFIXES, FileClip, FileClips
from framepack.types import Latents

LATENTS = ".safetensors"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
CLIP_FRAMES = 33
"""Pixel frames encoded at once: a section's window and the frame before it."""


@dataclass(frozen=True)
class CodebookFit:
    """What to fit.

    Attributes:
        data: Folder, or one file.
        output: Safetensors file to write.
        size: Entries (the paper's K).
        seed: Of all random choices.
        passes: Over the data.
    """

    data: Path
    output: Path
    size: int = 128
    seed: int = 0
    passes: int = 3


def fit_from_folder(fit: CodebookFit, models: Models) -> int:
    """Fit a codebook and write it; returns of how many clips.

    Args:
        fit: What to do.
        models: Asked for the codec if there is anything to encode; its device computes.

    Raises:
        InvalidRequest: There is no data, too little of it, or no folder to write to.
        MediaError: A file cannot be read or written.
        WeightsError: The codec cannot be loaded.
    """
    if not fit.output.parent.is_dir():
        raise InvalidRequest("output", f"there is no folder {fit.output.parent}")
    options = FitOptions(fit.size, fit.seed, fit.passes, device=str(models.device))
    with tempfile.TemporaryDirectory(prefix="framepack-codebook-") as folder:
        files = latent_files(fit.data, models, Path(folder))
        try:
            codebook = fit_codebook(lambda: map(read_latents, files), options)
        except ValueError as error:
            raise InvalidRequest("size", f"{error}: give more data or fewer entries") from error
    try:
        codebook.save(fit.output)
    except (OSError, SafetensorError) as error:
        raise MediaError(f"cannot write {fit.output}: {error}") from error
    return len(files)


def latent_files(data: Path, models: Models, folder: Path) -> list[Path]:
    """Files with the latents of a folder of data, by name; encodes what is none yet.

    Args:
        data: The folder, or one file.
        models: Asked for the codec if there is anything to encode.
        folder: Where to put encoded clips.

    Raises:
        InvalidRequest: There is no data.
        MediaError: A file cannot be read.
    """
    found = [data] if data.is_file() else sorted(path for path in data.rglob("*") if path.is_file())
    latents = [path for path in found if path.suffix == LATENTS and _has_latents(path)]
    count = 0
    for path in found:
        for encoded in _encoded(path, models):
            latents.append(folder / f"{count:08d}{LATENTS}")
            save_file({"latents": encoded.contiguous()}, latents[-1])
            count += 1
    if not latents:
        raise InvalidRequest(
            "data", f"{data} holds no videos, no pictures and no safetensors files with latents"
        )
    return latents


def read_latents(path: Path) -> Latents:
    """(1, c, t, h, w) latents of a file, fp32."""
    with safe_open(path, framework="pt") as file:
        latents: Tensor = file.get_tensor("latents")
    return (latents if latents.ndim == 5 else latents[None]).float()


def _has_latents(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return "latents" in file.keys()  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise MediaError(f"cannot read {path}: {error}") from error


def _encoded(path: Path, models: Models) -> Iterator[Latents]:
    """A picture's latent frame, a video's clips, nothing of other files."""
    suffix, config = path.suffix.lower(), models.preset.config
    if suffix in PICTURES:
        pixels = open_image(path)
        size = nearest_bucket((pixels.shape[0], pixels.shape[1]), config.buckets)
        yield models.codec.encode_image(fit_image(pixels, size), start_generator(0))
    elif suffix in SUFFIXES:
        if not isinstance(models.codec, HunyuanVideoCodec):
            raise InvalidRequest(
                "data",
                f"videos are encoded by HunyuanVideo's codec only, not {path.name}: give "
                "pictures or cached latents",
            )
        info = probe_video(path)
        size, available = nearest_bucket(info.size, config.buckets), info.num_frames(config.fps)
        for start in range(0, available, CLIP_FRAMES):
            length = 1 + 4 * ((min(CLIP_FRAMES, available - start) - 1) // 4)
            clip = FileClip(path, "", "", start, length, size)
            yield encode_video(models.codec.vae, FileClips([clip], config.fps).clip(0))
