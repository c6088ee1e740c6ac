"""Presets: whose weights, in which precision, and what exactly computes.

A preset's parts load separately, when first asked for, since rendering and delivering may be
different processes: ``encoders`` for `framepack.generation.encode`, ``transformer`` for
`framepack.generation.section`, ``codec`` for `framepack.generation.stitch`.

Weights come from the preset's hub repositories, or from a local folder with the subfolders that
`framepack.families` names. A local folder may also hold the transformer alone, its config.json at
the top; the rest then comes from the hub. A ``framepack.json`` beside the subfolders states how
prompts are cut where it is not as in the released models.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import cached_assets_path, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from framepack.drift.codebook import Codebook
from framepack.errors import InvalidRequest, WeightsError
from framepack.families import FAMILIES, Codec, Family, Sources, Transformer
from framepack.families import SETTINGS as SETTINGS
from framepack.families import Part as Part
from framepack.generation.encode import Encoders
from framepack.generation.plan import GENERATION_CONFIGS, GenerationConfig
from framepack.generation.quality import QUALITIES
from framepack.generation.stepcache import MagCacheSettings, StepCacheFactory, TeaCacheSettings
from framepack.media.clips import ENCODER_THREADS
from framepack.models.base import PackedModel
from framepack.models.fingerprint import Fingerprint, arithmetic, library_versions
from framepack.models.loading import file_sha256, files_sha256
from framepack.models.lora import merge_lora, read_lora, weight_shapes
from framepack.models.parallel import SequenceParallel
from framepack.models.placement import RESIDENT, Placement, Placing

FOLDERS = FAMILIES["hunyuan-video"].folders
"""What each part of the released presets and of ``tiny`` reads."""

LIBRARIES: Mapping[Part, tuple[str, ...]] = {
    "encoders": ("transformers", "tokenizers", "diffusers", "pillow"),
    "transformer": (),
    "codec": ("diffusers", "av"),
}
"""Distributions besides torch whose version can change what a part computes."""

ALL_PARTS: tuple[Part, ...] = ("encoders", "transformer", "codec")

MAGCACHE = "magcache.json"
"""Of step caches by magnitude, in a folder of weights."""

CODEC_PARTS = ("encoder", "quant_conv", "post_quant_conv", "decoder")
"""Modules of an autoencoder that are called one by one."""

CODEBOOK = "codebook.safetensors"
"""Of discretised history, in a folder of weights."""

SHIPPED_TINY = Path(__file__).parent / "weights" / "tiny"
"""Trained weights of ``tiny`` in this package."""


@dataclass(frozen=True)
class Precision:
    """Dtypes of a preset's parts."""

    transformer: torch.dtype
    encoders: torch.dtype
    codec: torch.dtype


@dataclass(frozen=True)
class Preset:
    """A set of weights and how it computes.

    Attributes:
        name: As a request spells it; also a key of `GENERATION_CONFIGS`.
        precision: By device type.
        transformer: Hub repository with the transformer at its top, the rest being the base
            model's.
        repository: Hub repository with all folders. Of neither: the weights are built here.
        base: Key of `framepack.families.FAMILIES`.
    """

    name: str
    precision: Mapping[str, Precision]
    transformer: str | None = None
    repository: str | None = None
    base: str = "hunyuan-video"

    @property
    def config(self) -> GenerationConfig:
        """Defaults of the method."""
        return GENERATION_CONFIGS[self.name]

    @property
    def family(self) -> Family:
        """How its parts load."""
        return FAMILIES[self.base]


_BASE_REPOSITORY = "hunyuanvideo-community/HunyuanVideo"
_VISION_REPOSITORY = "lllyasviel/flux_redux_bfl"
_VISION_FOLDERS = ("image_encoder", "feature_extractor")

_FP32 = Precision(torch.float32, torch.float32, torch.float32)
_RELEASED = {
    "cuda": Precision(torch.bfloat16, torch.float16, torch.float16),
    # CPUs are slow at fp16 or lack it; 13 B parameters in fp32 would be 51 GB.
    "cpu": Precision(torch.bfloat16, torch.float32, torch.float32),
}

_HELIOS = {
    # diffusers' example: the autoencoder of Wan in fp32, the rest in bf16.
    "cuda": Precision(torch.bfloat16, torch.bfloat16, torch.float32),
    "cpu": Precision(torch.bfloat16, torch.float32, torch.float32),
}

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("framepack-i2v", _RELEASED, "lllyasviel/FramePackI2V_HY"),
        Preset("framepack-f1", _RELEASED, "lllyasviel/FramePack_F1_I2V_HY_20250503"),
        Preset("helios-base", _HELIOS, repository="BestWishYsh/Helios-Base", base="wan"),
        Preset("tiny", {"cuda": _FP32, "cpu": _FP32}),
        Preset("tiny-wan", {"cuda": _FP32, "cpu": _FP32}, base="wan"),
    )
}
"""By the name a request uses."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA to merge into a preset's transformer.

    Attributes:
        path: Safetensors file of any dialect, see `framepack.models.lora`.
        scale: Its strength; 1 is as trained.
    """

    path: Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> LoraFile:
        """``FILE`` or ``FILE:SCALE``."""
        path, colon, scale = text.rpartition(":")
        try:
            return cls(Path(path), float(scale)) if colon else cls(Path(text))
        except ValueError:
            return cls(Path(text))


class Models:
    """The parts of a preset, each loaded when first asked for and then kept."""

    def __init__(
        self,
        preset: Preset,
        weights: Path | None,
        device: torch.device,
        loras: Sequence[LoraFile] = (),
        codebook: Path | None = None,
        placement: Placement = RESIDENT,
    ) -> None:
        self.preset = preset
        self.device = device
        self.placement = placement
        self.processes = 1
        """That split each section's tokens; more are for who has joined a process group of as many,
        and set before the transformer is asked for."""
        self.precision = preset.precision[device.type]
        if placement.host_codec:
            self.precision = replace(self.precision, codec=preset.precision["cpu"].codec)
        self.loras = tuple(loras)
        self._weights = weights
        self._codebook = codebook

    @cached_property
    def encoders(self) -> Encoders:
        """The models of `framepack.generation.encode`, the codec included. Raises WeightsError."""
        sources, dtype = self._sources(self._placing.loading), self.precision.encoders
        found = self.preset.family.encoders(sources, dtype, self.codec)
        for encoder in (found.prompt, found.pooled, found.image):
            if hasattr(encoder, "model"):  # Wan has no pooled text and no image states
                self._placing.encoder(encoder.model)
        return found

    @cached_property
    def transformer(self) -> PackedModel[Any]:
        """The packed transformer in its inference form, LoRAs merged. Raises WeightsError."""
        released = self.released_transformer()
        parallel = None
        if self.processes > 1:
            parallel = SequenceParallel(released.config.num_attention_heads)
        model: PackedModel[Any] = self.preset.family.infer(released, parallel, self._placing)
        return model

    def released_transformer(self) -> Transformer:
        """The same with the released tensors, as files have them. Raises WeightsError."""
        family = self.preset.family
        sources = self._sources(self._placing.loading)
        model: Transformer = family.transformer(sources, self.precision.transformer)
        for file in self.loras:
            merge_lora(model, read_lora(file.path, weight_shapes(model)), file.scale)
        return model

    @cached_property
    def codec(self) -> Codec:
        """The video autoencoder. Raises WeightsError."""
        found = self.preset.family.codec(
            self._sources(self._placing.codec_device), self.precision.codec
        )
        for name in CODEC_PARTS:
            if isinstance(getattr(found.vae, name, None), nn.Module):
                self._placing.codec(found.vae.get_submodule(name))
        return found

    @cached_property
    def _placing(self) -> Placing:
        return Placing(self.placement, self.device)

    @cached_property
    def codebook(self) -> Codebook | None:
        """The codebook of discretised history, if there is one. Raises WeightsError."""
        return None if self.codebook_file is None else Codebook.load(self.codebook_file)

    def step_cache(self, quality: str) -> StepCacheFactory | None:
        """What a quality skips with; None where every step is computed. Raises WeightsError."""
        skipping = QUALITIES[quality]
        if skipping is None:
            return None
        if self.magcache_file is None:
            return TeaCacheSettings(skipping.tea_threshold)
        return MagCacheSettings.read(self.magcache_file, skipping.magnitude_error, skipping.most)

    @property
    def magcache_file(self) -> Path | None:
        """`MAGCACHE` in the folder of weights, if it is there."""
        beside = None if self._root is None else self._root / MAGCACHE
        return beside if beside is not None and beside.is_file() else None

    @property
    def codebook_file(self) -> Path | None:
        """The file named for it, else `CODEBOOK` in the folder of weights; None for neither."""
        if self._codebook is not None or self._root is None:
            return self._codebook
        beside = self._root / CODEBOOK
        return beside if beside.is_file() else None

    def folder(self, name: str) -> Path:
        """Where a subfolder of the family's lies on this machine; downloads it if it must.

        Raises:
            WeightsError: It is not in the local folder given, or cannot be had from the hub.
        """
        root = self._root
        if root is None:
            return self._from_hub(name)
        if (root / name).is_dir():
            return root / name
        if self._on_hub and (root / "config.json").is_file():
            return root if name == "transformer" else self._from_hub(name)
        raise WeightsError(f"{root} has no folder {name!r}; preset {self.preset.name} needs it")

    @cached_property
    def _root(self) -> Path | None:
        if self._weights is not None or self._on_hub:
            return self._weights
        return tiny_folder(self.preset)

    @property
    def _on_hub(self) -> bool:
        return self.preset.transformer is not None or self.preset.repository is not None

    def _sources(self, device: torch.device) -> Sources:
        settings = None if self._root is None else self._root / SETTINGS
        stated = settings is not None and settings.is_file()
        return Sources(
            folder=self.folder,
            settings=settings if stated else None,
            device=device,
            window=self.preset.config.window,
        )

    def _from_hub(self, name: str) -> Path:
        if self.preset.repository is not None:
            return _download(self.preset.repository, name)
        if name == "transformer":
            return _download(str(self.preset.transformer), "")
        vision = name in _VISION_FOLDERS
        return _download(_VISION_REPOSITORY if vision else _BASE_REPOSITORY, name)


def load_preset(
    name: str,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    loras: Sequence[LoraFile] = (),
    codebook: Path | None = None,
    placement: str = "resident",
) -> Models:
    """A preset's models; nothing is loaded before it is asked for.

    Args:
        name: Key of `PRESETS`.
        weights: Local folder to use instead of the hub or of the shipped weights.
        device: Default: the first CUDA device if there is one, else the CPU.
        loras: Merged into the transformer, one after the other.
        codebook: Of discretised history; default: the weights' own.
        placement: What lies on the device and what waits on the host, see `Placement`.

    Raises:
        InvalidRequest: There is no such preset, folder, LoRA file, codebook, kind of device or
            placement.
    """
    if name not in PRESETS:
        raise InvalidRequest("preset", f"there is no {name!r}; choose one of: {', '.join(PRESETS)}")
    if weights is not None and not Path(weights).is_dir():
        raise InvalidRequest("weights", f"{weights} is not a folder")
    for file in loras:
        if not file.path.is_file():
            raise InvalidRequest("lora", f"{file.path} is not a file; write FILE or FILE:SCALE")
    if codebook is not None and not codebook.is_file():
        raise InvalidRequest("codebook", f"{codebook} is not a file")
    chosen = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folder = None if weights is None else Path(weights)
    return Models(PRESETS[name], folder, chosen, loras, codebook, Placement.parse(placement))


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidRequest("device", f"{name!r} is no device; use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise InvalidRequest("device", f"presets run on cpu and cuda, not on {device.type}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidRequest(
            "device", f"there is no {device} here; {torch.cuda.device_count()} are"
        )
    return device


def engine_fingerprint(
    models: Models,
    parts: Sequence[Part] = ALL_PARTS,
    step_cache: StepCacheFactory | None = None,
    hash_cache: Path | None = None,
) -> Fingerprint:
    """What decides the bytes that some parts of a preset make; loads no weights.

    Args:
        models: The preset and device.
        parts: What a process computes with: a render process encoders and transformer, a deliver
            process the codec.
        step_cache: As in `SamplingSettings`; counts with the transformer only.
        hash_cache: Folder that remembers the hashes of weight files; default: the user's cache.
    """
    cache = hash_cache or cached_assets_path("framepack", namespace="hashes")
    details = {"preset": models.preset.name, **arithmetic(models.device)}
    details |= library_versions(("torch", *sorted({n for p in parts for n in LIBRARIES[p]})))
    for part in parts:
        details[f"dtype.{part}"] = str(getattr(models.precision, part)).removeprefix("torch.")
        for name in models.preset.family.folders[part]:
            details[f"weights.{name}"] = files_sha256(models.folder(name), cache)
    if "transformer" in parts:
        details |= _transformer_details(models, step_cache, cache)
    if "codec" in parts:
        details["encoder_threads"] = str(ENCODER_THREADS)
        details["codec_attention"] = "frame by frame"
        if models.placement.host_codec:
            details |= {f"codec.{k}": v for k, v in arithmetic(torch.device("cpu")).items()}
    return Fingerprint.of(details)


def _transformer_details(
    models: Models, step_cache: StepCacheFactory | None, cache: Path
) -> dict[str, str]:
    """What only a process that samples computes with."""
    details: dict[str, str] = {}
    for number, lora in enumerate(models.loras):
        details[f"lora.{number}"] = f"{file_sha256(lora.path, cache)} x {lora.scale}"
    if models.codebook_file is not None:
        details["codebook"] = file_sha256(models.codebook_file, cache)
    details["transformer"] = models.preset.family.form
    if models.magcache_file is not None:
        details["magcache"] = file_sha256(models.magcache_file, cache)
    details["attention"] = "torch scaled_dot_product_attention"
    details["step_cache"] = repr(step_cache)
    if models.placement.float8:
        details["storage"] = "float8"
    if models.placement.float8_products:
        details["products"] = "float8, a scale a row"
    if models.processes > 1:
        details["processes"] = str(models.processes)  # sums round otherwise
    if models.loras and models.placement != RESIDENT:
        details["loras_merged"] = "on the host"  # which may round otherwise
    return details


def _download(repository: str, subfolder: str) -> Path:
    """A repository's subfolder ("" for the files at its top) in the local hub cache."""
    patterns = [f"{subfolder}/*"] if subfolder else ["config.json", "*.safetensors*"]
    try:
        snapshot = snapshot_download(repository, allow_patterns=patterns)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"cannot get {repository} from the hub: {reason}") from error
    return Path(snapshot, subfolder)


def tiny_folder(preset: Preset, cache: Path | None = None) -> Path:
    """The weights of a preset that is not on the hub: shipped, or random, built once and kept.

    Args:
        preset: ``tiny`` is shipped; others are random.
        cache: Where to keep them; default: the user's cache.
    """
    if preset.name == "tiny" and (SHIPPED_TINY / SETTINGS).is_file():
        return SHIPPED_TINY
    cache = cache or cached_assets_path("framepack", namespace=preset.name)
    folder = cache / "random-1"
    if not folder.is_dir():
        partial = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
        try:
            preset.family.build(partial)
            partial.chmod(0o755)
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
