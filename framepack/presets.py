"""Presets: whose weights, in which precision, and what exactly computes.

A preset's parts load separately, when first asked for, since rendering and delivering may be
different processes: ``encoders`` for `framepack.generation.encode`, ``transformer`` for
`framepack.generation.section`, ``codec`` for `framepack.generation.stitch`.

Weights come from the preset's hub repositories, or from a local folder with the subfolders of
`FOLDERS`. A local folder may also hold the transformer alone, its config.json at the top; the rest
then comes from the hub. A ``framepack.json`` beside the subfolders states the prompt template where
it is not the released models'.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import cached_assets_path, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from framepack.errors import InvalidRequest, WeightsError
from framepack.generation.encode import Encoders
from framepack.generation.plan import GENERATION_CONFIGS, GenerationConfig
from framepack.generation.stepcache import StepCacheFactory
from framepack.media.clips import ENCODER_THREADS
from framepack.models.fingerprint import Fingerprint, arithmetic, library_versions
from framepack.models.fused import FORM, fuse
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.image import load_image_encoder
from framepack.models.loading import file_sha256, files_sha256, load_transformer, read_json
from framepack.models.lora import merge_lora, read_lora, weight_shapes
from framepack.models.text import (
    PromptTemplate,
    load_pooled_encoder,
    load_prompt_encoder,
    released_template,
)
from framepack.models.tiny import build_folder
from framepack.models.vae import HunyuanVideoCodec, load_codec

Part = Literal["encoders", "transformer", "codec"]

_ENCODERS = "text_encoder tokenizer text_encoder_2 tokenizer_2 image_encoder feature_extractor vae"

FOLDERS: Mapping[Part, tuple[str, ...]] = {
    "encoders": tuple(_ENCODERS.split()),
    "transformer": ("transformer",),
    "codec": ("vae",),
}
"""What each part reads."""

LIBRARIES: Mapping[Part, tuple[str, ...]] = {
    "encoders": ("transformers", "tokenizers", "diffusers", "pillow"),
    "transformer": (),
    "codec": ("diffusers", "av"),
}
"""Distributions besides torch whose version can change what a part computes."""

ALL_PARTS: tuple[Part, ...] = ("encoders", "transformer", "codec")

SETTINGS = "framepack.json"

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
        transformer: Hub repository with the transformer at its top; None if it is built here.
    """

    name: str
    precision: Mapping[str, Precision]
    transformer: str | None = None

    @property
    def config(self) -> GenerationConfig:
        """Defaults of the method."""
        return GENERATION_CONFIGS[self.name]


_BASE_REPOSITORY = "hunyuanvideo-community/HunyuanVideo"
_VISION_REPOSITORY = "lllyasviel/flux_redux_bfl"
_VISION_FOLDERS = ("image_encoder", "feature_extractor")

_FP32 = Precision(torch.float32, torch.float32, torch.float32)
_RELEASED = {
    "cuda": Precision(torch.bfloat16, torch.float16, torch.float16),
    # CPUs are slow at fp16 or lack it; 13 B parameters in fp32 would be 51 GB.
    "cpu": Precision(torch.bfloat16, torch.float32, torch.float32),
}

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("framepack-i2v", _RELEASED, "lllyasviel/FramePackI2V_HY"),
        Preset("framepack-f1", _RELEASED, "lllyasviel/FramePack_F1_I2V_HY_20250503"),
        Preset("tiny", {"cuda": _FP32, "cpu": _FP32}),
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
    ) -> None:
        self.preset = preset
        self.device = device
        self.precision = preset.precision[device.type]
        self.loras = tuple(loras)
        self._weights = weights

    @cached_property
    def encoders(self) -> Encoders:
        """The models of `framepack.generation.encode`, the codec included. Raises WeightsError."""
        folder, device, dtype = self.folder, self.device, self.precision.encoders
        template = self._template()
        return Encoders(
            prompt=load_prompt_encoder(
                folder("text_encoder"), folder("tokenizer"), template, device, dtype
            ),
            pooled=load_pooled_encoder(
                folder("text_encoder_2"), folder("tokenizer_2"), device, dtype
            ),
            image=load_image_encoder(
                folder("image_encoder"), folder("feature_extractor"), device, dtype
            ),
            codec=self.codec,
        )

    @cached_property
    def transformer(self) -> PackedHunyuanVideo:
        """The packed transformer in its inference form, LoRAs merged. Raises WeightsError."""
        return fuse(self.released_transformer())

    def released_transformer(self) -> PackedHunyuanVideo:
        """The same with the released tensors, as files have them. Raises WeightsError."""
        model = load_transformer(
            self.folder("transformer"), self.device, self.precision.transformer
        )
        for file in self.loras:
            merge_lora(model, read_lora(file.path, weight_shapes(model)), file.scale)
        return model

    @cached_property
    def codec(self) -> HunyuanVideoCodec:
        """The video autoencoder as a `SectionCodec`. Raises WeightsError."""
        return load_codec(self.folder("vae"), self.device, self.precision.codec)

    def folder(self, name: str) -> Path:
        """Where a subfolder of `FOLDERS` lies on this machine; downloads it if it must.

        Raises:
            WeightsError: It is not in the local folder given, or cannot be had from the hub.
        """
        root = self._root
        if root is None:
            return self._from_hub(name)
        if (root / name).is_dir():
            return root / name
        if self.preset.transformer is not None and (root / "config.json").is_file():
            return root if name == "transformer" else self._from_hub(name)
        raise WeightsError(f"{root} has no folder {name!r}; preset {self.preset.name} needs it")

    @cached_property
    def _root(self) -> Path | None:
        if self._weights is not None or self.preset.transformer is not None:
            return self._weights
        return tiny_folder()

    def _from_hub(self, name: str) -> Path:
        if name == "transformer":
            return _download(str(self.preset.transformer), "")
        vision = name in _VISION_FOLDERS
        return _download(_VISION_REPOSITORY if vision else _BASE_REPOSITORY, name)

    def _template(self) -> PromptTemplate:
        if self._root is None or not (self._root / SETTINGS).is_file():
            return released_template()
        settings = read_json(self._root / SETTINGS)
        try:
            return PromptTemplate(
                text=settings["prompt_template"],
                crop_start=settings["prompt_crop_start"],
                max_tokens=settings["prompt_max_tokens"],
            )
        except KeyError as error:
            raise WeightsError(f"{self._root / SETTINGS} does not state {error}") from None


def load_preset(
    name: str,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    loras: Sequence[LoraFile] = (),
) -> Models:
    """A preset's models; nothing is loaded before it is asked for.

    Args:
        name: Key of `PRESETS`.
        weights: Local folder to use instead of the hub or of the shipped weights.
        device: Default: the first CUDA device if there is one, else the CPU.
        loras: Merged into the transformer, one after the other.

    Raises:
        InvalidRequest: There is no such preset, folder, LoRA file or kind of device.
    """
    if name not in PRESETS:
        raise InvalidRequest("preset", f"there is no {name!r}; choose one of: {', '.join(PRESETS)}")
    if weights is not None and not Path(weights).is_dir():
        raise InvalidRequest("weights", f"{weights} is not a folder")
    for file in loras:
        if not file.path.is_file():
            raise InvalidRequest("lora", f"{file.path} is not a file; write FILE or FILE:SCALE")
    chosen = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Models(PRESETS[name], None if weights is None else Path(weights), chosen, loras)


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
        for name in FOLDERS[part]:
            details[f"weights.{name}"] = files_sha256(models.folder(name), cache)
    if "transformer" in parts:
        for number, lora in enumerate(models.loras):
            details[f"lora.{number}"] = f"{file_sha256(lora.path, cache)} x {lora.scale}"
        details["transformer"] = FORM
        details["attention"] = "torch scaled_dot_product_attention"
        details["step_cache"] = repr(step_cache)
    if "codec" in parts:
        details["encoder_threads"] = str(ENCODER_THREADS)
    return Fingerprint.of(details)


def _download(repository: str, subfolder: str) -> Path:
    """A repository's subfolder ("" for the files at its top) in the local hub cache."""
    patterns = [f"{subfolder}/*"] if subfolder else ["config.json", "*.safetensors*"]
    try:
        snapshot = snapshot_download(repository, allow_patterns=patterns)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"cannot get {repository} from the hub: {reason}") from error
    return Path(snapshot, subfolder)


def tiny_folder(cache: Path | None = None) -> Path:
    """The weights of ``tiny``: the shipped ones, or random ones, built once and kept.

    Args:
        cache: Where to keep them; default: the user's cache.
    """
    if (SHIPPED_TINY / SETTINGS).is_file():
        return SHIPPED_TINY
    cache = cache or cached_assets_path("framepack", namespace="tiny")
    folder = cache / "random-1"
    if not folder.is_dir():
        partial = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
        try:
            build_folder(partial)
            partial.chmod(0o755)
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
