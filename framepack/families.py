"""How the parts of each base model load: one `Family` a base model, found by a preset's name of it.

A family says which folders a part reads and how its models come out of them; everything else about
presets (where folders lie, precision, LoRAs, fingerprints) is `framepack.presets`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from framepack.errors import InvalidRequest, WeightsError
from framepack.generation.encode import Encoders
from framepack.models.codec import SectionCodec
from framepack.models.fused import FORM, fuse
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.image import load_image_encoder
from framepack.models.loading import load_transformer, read_json
from framepack.models.parallel import SequenceParallel
from framepack.models.placement import Placing
from framepack.models.text import (
    PromptTemplate,
    load_pooled_encoder,
    load_prompt_encoder,
    released_template,
)
from framepack.models.tiny import build_folder
from framepack.models.vae import HunyuanVideoCodec, load_codec
from framepack.models.wan import PackedWan, load_wan
from framepack.models.wan_codec import WanCodec, load_wan_codec
from framepack.models.wan_text import (
    RELEASED_TOKENS,
    NoImageTokens,
    NoPooledText,
    load_wan_prompt_encoder,
)
from framepack.models.wan_tiny import build_wan_folder

Part = Literal["encoders", "transformer", "codec"]

SETTINGS = "framepack.json"

Transformer = PackedHunyuanVideo | PackedWan
Codec = HunyuanVideoCodec | WanCodec


@dataclass(frozen=True)
class Sources:
    """Where a preset's models come from and what they become.

    Attributes:
        folder: Name of a subfolder to its place on this machine; raises WeightsError.
        settings: A framepack.json beside the subfolders; None where there is none.
        device: To load to.
        window: Latent frames of a section.
    """

    folder: Callable[[str], Path]
    settings: Path | None
    device: torch.device
    window: int

    def setting(self, name: str) -> Any:
        """A setting of `settings`. Raises WeightsError if it is not stated."""
        assert self.settings is not None
        try:
            return read_json(self.settings)[name]
        except KeyError as error:
            raise WeightsError(f"{self.settings} does not state {error}") from None


@dataclass(frozen=True)
class Family:
    """One base model's parts.

    Attributes:
        folders: What each part reads.
        encoders: Loads what runs before the first section, given the codec.
        transformer: Loads the packed transformer with the released tensors.
        infer: Gives a transformer its inference form, in place, split between processes and placed
            where that is asked for.
        form: That form, for engine fingerprints.
        codec: Loads the video autoencoder.
        build: Writes a small folder with random weights.
    """

    folders: Mapping[Part, tuple[str, ...]]
    encoders: Callable[[Sources, torch.dtype, SectionCodec], Encoders]
    transformer: Callable[[Sources, torch.dtype], Any]
    infer: Callable[[Any, SequenceParallel | None, Placing], Any]
    form: str
    codec: Callable[[Sources, torch.dtype], Codec]
    build: Callable[[Path], None]


def _hunyuan_encoders(sources: Sources, dtype: torch.dtype, codec: SectionCodec) -> Encoders:
    folder, device = sources.folder, sources.device
    return Encoders(
        prompt=load_prompt_encoder(
            folder("text_encoder"), folder("tokenizer"), _template(sources), device, dtype
        ),
        pooled=load_pooled_encoder(folder("text_encoder_2"), folder("tokenizer_2"), device, dtype),
        image=load_image_encoder(
            folder("image_encoder"), folder("feature_extractor"), device, dtype
        ),
        codec=codec,
    )


def _template(sources: Sources) -> PromptTemplate:
    if sources.settings is None:
        return released_template()
    return PromptTemplate(
        text=sources.setting("prompt_template"),
        crop_start=sources.setting("prompt_crop_start"),
        max_tokens=sources.setting("prompt_max_tokens"),
    )


def _wan_encoders(sources: Sources, dtype: torch.dtype, codec: SectionCodec) -> Encoders:
    stated = sources.settings is not None
    return Encoders(
        prompt=load_wan_prompt_encoder(
            sources.folder("text_encoder"),
            sources.folder("tokenizer"),
            sources.setting("prompt_max_tokens") if stated else RELEASED_TOKENS,
            sources.device,
            dtype,
        ),
        pooled=NoPooledText(),
        image=NoImageTokens(),
        codec=codec,
    )


def _wan_transformer(sources: Sources, dtype: torch.dtype) -> PackedWan:
    check_single_stage(sources.folder("scheduler"))
    return load_wan(sources.folder("transformer"), sources.device, dtype)


def check_single_stage(folder: Path) -> None:
    """Refuse weights that are sampled in another way than the section loop's.

    Helios-Mid and Helios-Distilled make each section in several stages from a coarse grid to a fine
    one, with fresh noise in between. That is another loop than one denoising from noise to data,
    and a checkpoint trained for it would make plausible but wrong pictures in ours.

    Raises:
        WeightsError: They are, or the folder does not say.
    """
    path = folder / "scheduler_config.json"
    config = read_json(path)
    # diffusers' own defaults, where the file leaves them out.
    helios = config.get("_class_name", "").startswith("Helios")
    stages = config.get("stages", 3 if helios else 1)
    if stages != 1 or config.get("scheduler_type") == "dmd":
        raise WeightsError(
            f"{path} asks for sampling in {stages} stages, or by distilled steps; sections are "
            "sampled in one stage: use BestWishYsh/Helios-Base"
        )


def _infer_hunyuan(
    model: PackedHunyuanVideo, parallel: SequenceParallel | None, placing: Placing
) -> PackedHunyuanVideo:
    placed = fuse(model, parallel, placing.settle)
    placing.bring_rest(placed)
    return placed


def _infer_wan(model: PackedWan, parallel: SequenceParallel | None, placing: Placing) -> PackedWan:
    if parallel is not None:
        raise InvalidRequest("processes", "Wan presets run in one process, not in many")
    for number, block in enumerate(model.blocks):
        with placing.settle(block, model.blocks, number):
            pass
    placing.bring_rest(model)
    return model


FAMILIES: Mapping[str, Family] = {
    "hunyuan-video": Family(
        folders={
            "encoders": (
                *("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
                *("image_encoder", "feature_extractor", "vae"),
            ),
            "transformer": ("transformer",),
            "codec": ("vae",),
        },
        encoders=_hunyuan_encoders,
        transformer=lambda s, dtype: load_transformer(s.folder("transformer"), s.device, dtype),
        infer=_infer_hunyuan,
        form=FORM,
        codec=lambda s, dtype: load_codec(s.folder("vae"), s.device, dtype),
        build=build_folder,
    ),
    "wan": Family(
        folders={
            "encoders": ("text_encoder", "tokenizer", "vae"),
            "transformer": ("transformer", "scheduler"),
            "codec": ("vae",),
        },
        encoders=_wan_encoders,
        transformer=_wan_transformer,
        infer=_infer_wan,
        form="wan 1",
        codec=lambda s, dtype: load_wan_codec(s.folder("vae"), s.device, dtype, s.window),
        build=build_wan_folder,
    ),
}
"""By the name a preset uses."""
