"""A corpus of the procedural world, encoded by real models of the smallest size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo

from framepack.models.tiny import SIZES, build_folder
from framepack.presets import Models, load_preset
from framepack.training.cache import LatentCache
from framepack.training.sources import WorldClips
from framepack.training.towers import widen_text_towers
from framepack.training.transformer import Corpus

FRAMES = 1 + 4 * 27
"""Three sections."""


@pytest.fixture(scope="session")
def nano_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("training") / "nano"
    build_folder(folder, "nano", seed=0)
    widen_text_towers(folder, seed=0)
    return load_preset("tiny", folder, "cpu")


@pytest.fixture(scope="session")
def nano_cache(nano_models: Models, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    source = WorldClips(first_seed=0, count=6, num_frames=FRAMES)
    return LatentCache(source, nano_models, "nano", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def nano_corpus(nano_cache: LatentCache) -> Corpus:
    nano_cache.fill()
    clips = nano_cache.load(motion_weight=4.0)
    return Corpus(clips[:4], clips[4:], nano_cache.uncaptioned(), "nano")


@pytest.fixture(scope="session")
def tiny_autoencoder() -> Callable[[], Any]:
    """Makes the autoencoder of ``tiny`` with the same random weights each time."""

    def make() -> Any:
        torch.manual_seed(0)
        chosen = SIZES["tiny"]
        return AutoencoderKLHunyuanVideo(
            down_block_types=("HunyuanVideoDownBlock3D",) * 3,
            up_block_types=("HunyuanVideoUpBlock3D",) * 3,
            block_out_channels=chosen.vae_channels,
            layers_per_block=1,
            norm_num_groups=chosen.vae_groups,
            mid_block_add_attention=False,
        )

    return make


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "run"
