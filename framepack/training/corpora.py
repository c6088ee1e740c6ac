"""From a configuration's data to the corpus of a run: sources, caches, codebooks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo

from framepack.drift.codebook import Codebook, FitOptions, fit_codebook
from framepack.errors import InvalidRequest
from framepack.generation.encode import Encoders
from framepack.models.loading import files_sha256
from framepack.presets import FOLDERS, Models
from framepack.training.cache import CachedClip, LatentCache
from framepack.training.config import TrainingConfig, WorldData
from framepack.training.examples import Arm
from framepack.training.files import find_clips
from framepack.training.pictures import read_prompts
from framepack.training.processes import Processes
from framepack.training.sources import ClipSource, WorldClips
from framepack.training.transformer import Corpus
from framepack.world.scene import FIRST_HELD_OUT_SEED


class CacheEncoders:
    """A preset's encoders as caches use them, loaded when the first clip needs them."""

    def __init__(self, models: Models) -> None:
        self._models = models

    @cached_property
    def encoders(self) -> Encoders:
        """The models.

        The codec of ``tiny`` gets plain convolutions, which autocast to bf16, over the whole clip
        at once: at 64 pixels it fits, and windows would compute two fifths of the frames twice.
        """
        models = self._models
        if models.preset.name == "tiny":
            models.codec.vae = load_vae(models.folder("vae"))
            models.codec.vae.use_framewise_encoding = False
        return models.encoders


class Corpora:
    """The caches of a training: clips to train on, clips to measure on, pictures for previews."""

    def __init__(
        self, config: TrainingConfig, models: Models, folder: Path, processes: Processes
    ) -> None:
        """Find the clips; nothing is encoded yet.

        Args:
            config: Names the data.
            models: Whose encoders are used.
            folder: Of the training.
            processes: That share the work.

        Raises:
            InvalidRequest: Of files, see `find_clips` and `read_prompts`.
        """
        self._config, self._folder, self._processes = config, folder, processes
        encoders, key = CacheEncoders(models), _encoders_key(models, folder / "hashes")
        self.training, self.held_out = (
            LatentCache(source, encoders, key, folder / "cache" / name)
            for source, name in zip(self._sources(models), ("training", "held_out"), strict=True)
        )

        self._caches = [self.held_out, self.training]
        if config.previews is not None and config.previews.prompts is not None:
            pictures = read_prompts(Path(config.previews.prompts), models.preset.config.buckets)
            self._caches.append(LatentCache(pictures, encoders, key, folder / "cache" / "previews"))

    def _sources(self, models: Models) -> tuple[ClipSource, ...]:
        data = self._config.data
        if not isinstance(data, WorldData):
            return find_clips(data, models.preset.config.buckets, self._folder / "hashes")
        frames = 1 + 4 * (data.latent_frames - 1)
        return (
            WorldClips(data.first_seed, data.clips, frames, data.pixels, data.cast),
            WorldClips(FIRST_HELD_OUT_SEED, data.held_out, frames, data.pixels, data.cast),
        )

    def fill(self) -> int:
        """Encode what is missing, this process's share; returns how many clips that were."""
        part, parts = self._processes.rank, self._processes.count
        filled = sum(cache.fill(part, parts) for cache in self._caches)
        self._processes.wait()
        return filled

    def load(self) -> Corpus:
        """Everything, in memory.

        Raises:
            InvalidRequest: Some clips are not encoded yet, or are too short for an arm.
        """
        settings = self._config.transformer
        try:
            clips, held_out = (
                cache.load(settings.motion_weight) for cache in (self.training, self.held_out)
            )
            uncaptioned = self.training.uncaptioned()
        except FileNotFoundError as error:
            raise InvalidRequest("stage", "run the stage 'cache' first") from error
        for arm in settings.arms:
            _check_length(arm, [*clips, *held_out])
        return Corpus(clips, held_out, uncaptioned, self.training.key, self._codebooks(clips))

    def preview_clips(self) -> list[CachedClip]:
        """What previews are made of: the pictures named for them, else held-out clips."""
        _, _, *pictures = self._caches
        return (pictures[0] if pictures else self.held_out).load(0.0)

    def _codebooks(self, clips: Sequence[CachedClip]) -> dict[int, Codebook]:
        """Those that arms discretise history with, fitted to the clips once and kept."""
        histories = [arm.history for arm in self._config.transformer.arms]
        codebooks = {}
        for size in sorted({each.entries for each in histories if each.change == "codebook"}):
            path = self._folder / f"codebook-{size}-{self.training.key}.safetensors"
            if self._processes.main and not path.is_file():
                pixels = sum(clip.latents[0].numel() for clip in clips)
                if pixels < size:
                    raise InvalidRequest(
                        "history.entries",
                        f"{size}, but the clips have only {pixels} latent pixels",
                    )
                fit_codebook(
                    lambda: (clip.latents[None].float() for clip in clips), FitOptions(size)
                ).save(path)
            self._processes.wait()
            codebooks[size] = Codebook.load(path)
        return codebooks


def load_vae(folder: Path) -> Any:
    """The autoencoder for training: all parameters fp32, plain convolutions."""
    return AutoencoderKLHunyuanVideo.from_pretrained(folder, torch_dtype=torch.float32)


def _encoders_key(models: Models, hashes: Path) -> str:
    """Of all that makes latents and states; not of the codec's decoder."""
    digest = hashlib.sha256()
    for name in FOLDERS["encoders"]:
        if name != "vae":
            digest.update(files_sha256(models.folder(name), hashes).encode())
    state = load_vae(models.folder("vae")).state_dict()
    for name in sorted(n for n in state if n.startswith(("encoder", "quant_conv"))):
        # Adding zero makes -0.0 and 0.0 the same bytes: averaging turns one into the other.
        digest.update(name.encode() + (state[name] + 0.0).numpy().tobytes())
    return digest.hexdigest()


def _check_length(arm: Arm, clips: Sequence[CachedClip]) -> None:
    sections = arm.sections[0]
    needed = 1 + sections * len(arm.plan(sections)[0].frames)
    shortest = min(clip.num_frames for clip in clips)
    if shortest < needed:
        raise InvalidRequest(
            "arms",
            f"{arm.name} makes videos of {needed} latent frames at least, and the shortest clip "
            f"has {shortest}: raise data.latent_frames, or lower the arm's sections",
        )
