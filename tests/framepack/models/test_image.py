"""The image encoder against transformers' own processor and model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from framepack.errors import WeightsError
from framepack.models.image import ImageEncoder, ImagePreprocessing, load_image_encoder

CPU = torch.device("cpu")
RELEASED = {
    "size": {"height": 384, "width": 384},
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@pytest.fixture(scope="module")
def encoder(nano_folder: Path) -> ImageEncoder:
    folders = nano_folder / "image_encoder", nano_folder / "feature_extractor"
    return load_image_encoder(*folders, CPU, torch.float32)


@pytest.fixture(scope="module")
def picture() -> Any:
    return np.random.default_rng(2).integers(0, 256, (80, 48, 3), dtype=np.uint8)


def test_preprocessing_is_that_of_the_processor(picture: Any) -> None:
    processor = SiglipImageProcessorPil(**RELEASED)
    expected = processor(images=picture, return_tensors="pt")["pixel_values"]
    got = ImagePreprocessing.from_json(RELEASED)(picture)
    assert got.shape == (1, 3, 384, 384)
    assert torch.allclose(got, expected, atol=1e-6)


@torch.inference_mode()
def test_states_are_those_after_the_last_norm(
    encoder: ImageEncoder, nano_folder: Path, picture: Any
) -> None:
    processor = SiglipImageProcessorPil.from_pretrained(nano_folder / "feature_extractor")
    model = SiglipVisionModel.from_pretrained(nano_folder / "image_encoder").eval()
    expected = model(**processor(images=picture, return_tensors="pt")).last_hidden_state
    got = encoder.encode(picture)
    assert got.shape == (1, 16, 16)
    assert torch.allclose(got, expected, atol=1e-5)
    assert not hasattr(encoder.model, "head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_normalize": False}, "without one of"),
        ({"size": {"shortest_edge": 384}}, "not a SiglipImageProcessor"),
        ({"image_mean": None}, "not a SiglipImageProcessor"),
    ],
)
def test_other_processors_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        ImagePreprocessing.from_json(RELEASED | change)


def test_missing_numbers_are_an_error(nano_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json"):
        load_image_encoder(nano_folder / "image_encoder", tmp_path, CPU, torch.float32)
