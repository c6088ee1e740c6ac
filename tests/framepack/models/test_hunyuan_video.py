"""Our transformer against diffusers', and the layout of the released checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from torch import Tensor, nn

from framepack.errors import WeightsError
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.fused import FusedLinear, fuse
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.packing.schedule import Kernel

SMALL = HunyuanVideoConfig(
    num_attention_heads=4,
    attention_head_dim=64,
    num_layers=2,
    num_single_layers=3,
    text_embed_dim=48,
    pooled_projection_dim=24,
    image_proj_dim=40,
    rope_axes_dim=(8, 28, 28),
)
TEXT_TOKENS = 7


def theirs(config: HunyuanVideoConfig) -> nn.Module:
    ours_only = {"_class_name", "kernels"}
    values = {key: value for key, value in config.to_json().items() if key not in ours_only}
    model: nn.Module = HunyuanVideoFramepackTransformer3DModel(**values)
    return model


def randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module", params=["as trained", "fused", "unpacked"])
def both(request: pytest.FixtureRequest) -> tuple[PackedHunyuanVideo, nn.Module]:
    ours, oracle = PackedHunyuanVideo(SMALL).eval(), theirs(SMALL).eval()
    randomise(oracle, 0)
    ours.load_state_dict(oracle.state_dict())
    if request.param != "as trained":
        fuse(ours)
    if request.param == "unpacked":
        for layer in ours.modules():
            if isinstance(layer, FusedLinear):
                layer.unpack()
    return ours, oracle


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(22, 18), (26, 14), (16, 16)])
@torch.inference_mode()
def test_equals_diffusers(
    both: tuple[PackedHunyuanVideo, nn.Module], height: int, width: int
) -> None:
    """Grids of 11 x 9 and 13 x 7 tokens make the larger kernels pad."""
    ours, oracle = both
    target, clean = random(1, 16, 3, height, width, seed=1), random(1, 16, 2, height, width, seed=2)
    two, four = random(1, 16, 2, height, width, seed=3), random(1, 16, 16, height, width, seed=4)
    text, pooled = random(1, TEXT_TOKENS, 48, seed=5), random(1, 24, seed=6)
    image, timestep = random(1, 5, 40, seed=7), torch.tensor([700.0])

    expected = oracle(
        hidden_states=target,
        timestep=timestep,
        encoder_hidden_states=text,
        encoder_attention_mask=torch.ones(1, TEXT_TOKENS),
        pooled_projections=pooled,
        image_embeds=image,
        indices_latents=torch.arange(1, 4),
        guidance=torch.tensor([6000.0]),
        latents_clean=clean,
        indices_latents_clean=torch.tensor([0, 4]),
        latents_history_2x=two,
        indices_latents_history_2x=torch.tensor([5, 6]),
        latents_history_4x=four,
        indices_latents_history_4x=torch.arange(7, 23),
        return_dict=False,
    )[0]
    prepared = ours.prepare(
        [
            LevelLatents(Kernel(4, 8, 8), four, torch.arange(7, 23)[None]),
            LevelLatents(Kernel(2, 4, 4), two, torch.tensor([[5, 6]])),
            LevelLatents(Kernel(1, 2, 2), clean[:, :, :1], torch.tensor([[0]])),
            LevelLatents(Kernel(1, 2, 2), clean[:, :, 1:], torch.tensor([[4]])),
        ],
        torch.tensor([[1, 2, 3]]),
        (height, width),
        TextCondition(text=text, pooled=pooled, image=image),
        6.0,
    )
    found = ours.predict(target, timestep, prepared)
    assert (found - expected).abs().max().item() <= 1e-5
    assert expected.abs().mean().item() > 0.1


@torch.inference_mode()
def test_a_batch_with_padded_text_equals_its_members(
    both: tuple[PackedHunyuanVideo, nn.Module],
) -> None:
    """Positions may differ within a batch, and padding reaches nothing."""
    ours, _ = both
    target, past = random(2, 16, 3, 8, 8, seed=1), random(2, 16, 2, 8, 8, seed=2)
    text, pooled, image = random(2, 6, 48, seed=3), random(2, 24, seed=4), random(2, 5, 40, seed=5)
    valid = torch.arange(6)[None] < torch.tensor([[6], [4]])
    positions = torch.tensor([[1, 2, 3], [11, 12, 13]])
    levels = [LevelLatents(Kernel(2, 4, 4), past, torch.tensor([[4, 5], [14, 15]]))]
    timesteps = torch.tensor([700.0, 300.0])
    batch = ours.prepare(
        levels, positions, (8, 8), TextCondition(text, pooled, image, mask=valid), 6.0
    )
    together = ours.predict(target, timesteps, batch)
    for i, length in enumerate((6, 4)):
        one = slice(i, i + 1)
        alone = ours.prepare(
            [
                LevelLatents(level.kernel, level.latents[one], level.positions[one])
                for level in levels
            ],
            positions[one],
            (8, 8),
            TextCondition(text[one, :length], pooled[one], image[one]),
            6.0,
        )
        found = ours.predict(target[one], timesteps[one], alone)
        torch.testing.assert_close(together[one], found, rtol=1e-5, atol=1e-5)


def test_the_output_projection_runs_in_fp32(both: tuple[PackedHunyuanVideo, nn.Module]) -> None:
    model = PackedHunyuanVideo(SMALL).to(torch.bfloat16)
    prepared = model.prepare(
        [],
        torch.tensor([[1]]),
        (4, 4),
        TextCondition(random(1, 3, 48, seed=1), random(1, 24, seed=2), random(1, 5, 40, seed=3)),
        6.0,
    )
    out = model.predict(
        torch.zeros(1, 16, 1, 4, 4, dtype=torch.bfloat16),
        torch.tensor([700.0], dtype=torch.bfloat16),
        prepared,
    )
    assert out.dtype is torch.float32
    assert (out != out.bfloat16().float()).any()


def test_guidance_is_rounded_to_the_models_dtype() -> None:
    model = PackedHunyuanVideo(SMALL).to(torch.bfloat16)
    condition = TextCondition(
        random(1, 3, 48, seed=1), random(1, 24, seed=2), random(1, 5, 40, seed=3)
    )
    prepared = model.prepare([], torch.tensor([[1]]), (4, 4), condition, 10.0)
    assert prepared.guidance is not None
    assert prepared.guidance.item() == 9984


class TestReleasedLayout:
    def test_true_shapes_and_size_on_the_meta_device(self) -> None:
        with torch.device("meta"):
            ours, oracle = PackedHunyuanVideo(HunyuanVideoConfig()), theirs(HunyuanVideoConfig())
        shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in oracle.state_dict().items()}
        assert len(shapes) == 1274
        assert sum(shape.numel() for shape in shapes.values()) == 12_874_314_816

    def test_config_round_trip(self) -> None:
        assert HunyuanVideoConfig.from_json(SMALL.to_json()) == SMALL
        assert HunyuanVideoConfig.from_json(HunyuanVideoConfig().to_json()) == HunyuanVideoConfig()

    def test_the_released_config_reads_as_the_defaults(self) -> None:
        released = {
            "_class_name": "HunyuanVideoTransformer3DModelPacked",
            "_diffusers_version": "0.33.0.dev0",
            "attention_head_dim": 128,
            "guidance_embeds": True,
            "has_clean_x_embedder": True,
            "has_image_proj": True,
            "image_proj_dim": 1152,
            "in_channels": 16,
            "mlp_ratio": 4.0,
            "num_attention_heads": 24,
            "num_layers": 20,
            "num_refiner_layers": 2,
            "num_single_layers": 40,
            "out_channels": 16,
            "patch_size": 2,
            "patch_size_t": 1,
            "pooled_projection_dim": 768,
            "qk_norm": "rms_norm",
            "rope_axes_dim": [16, 56, 56],
            "rope_theta": 256.0,
            "text_embed_dim": 4096,
        }
        assert HunyuanVideoConfig.from_json(released) == HunyuanVideoConfig()

    @pytest.mark.parametrize("change", [{"qk_norm": "none"}, {"patch_size": 4}, {"windows": 3}])
    def test_another_architecture_is_refused_by_name(self, change: dict[str, Any]) -> None:
        with pytest.raises(WeightsError, match=next(iter(change))):
            HunyuanVideoConfig.from_json({**SMALL.to_json(), **change})
