import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from framepack.errors import WeightsError
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.loading import WEIGHTS, load_transformer, save_transformer
from framepack.models.tiny import SIZES
from framepack.packing.schedule import Kernel
from framepack.training.starts import NEW_LAYERS, complete, is_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A transformer's folder as HunyuanVideo's: no packed history, no image."""
    torch.manual_seed(0)
    save_transformer(PackedHunyuanVideo(SIZES["nano"].transformer), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("has_clean_x_embedder", "has_image_proj", "kernels", "image_proj_dim"):
        config.pop(key)
    config |= {"image_proj_dim": 16, "_class_name": "HunyuanVideoTransformer3DModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / WEIGHTS)
    kept = {name: t for name, t in tensors.items() if not name.startswith(NEW_LAYERS)}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, tmp_path / WEIGHTS)
    return tmp_path


def test_a_base_gets_what_it_lacks(base: Path) -> None:
    assert is_base(base)
    with pytest.raises(WeightsError, match="missing tensors"):
        load_transformer(base)
    before = load_file(base / WEIGHTS)
    complete(base)
    assert not is_base(base)
    model = load_transformer(base)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    latents = torch.randn(1, 16, 4, 8, 8)
    tokens = model.clean_x_embedder(latents, Kernel(4, 8, 8))
    averaged = torch.nn.functional.avg_pool3d(latents, (4, 4, 4))
    torch.testing.assert_close(tokens, model.x_embedder(averaged))
    assert not model.image_projection(torch.randn(1, 3, 16)).any()


def test_a_damaged_base_is_refused(base: Path) -> None:
    tensors = load_file(base / WEIGHTS)
    tensors.pop("proj_out.weight")
    save_file(tensors, base / WEIGHTS)
    with pytest.raises(WeightsError, match=r"missing tensors: \(1\) proj_out.weight"):
        complete(base)
