"""The closed form against PyTorch's own count of the operations that the real code asks for."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from framepack.models.base import LevelLatents, TextCondition
from framepack.models.flops import StepTokens, step_flops
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.wan import PackedWan, WanConfig
from framepack.packing.schedule import Kernel

AREA, WINDOW, TEXT, IMAGE = (32, 48), 9, 40, 20
HUNYUAN = HunyuanVideoConfig(
    num_attention_heads=4, num_layers=2, num_single_layers=2, num_refiner_layers=1
)
WAN = WanConfig(num_attention_heads=4, num_layers=3, ffn_dim=1024)
PLAIN = WanConfig(
    num_attention_heads=4,
    num_layers=3,
    ffn_dim=1024,
    guidance_cross_attn=False,
    zero_history_timestep=False,
)


def counted(model: PackedHunyuanVideo | PackedWan, condition: TextCondition) -> float:
    """PyTorch's count of one step, on its device without memory."""
    level = LevelLatents(Kernel(1, 2, 2), torch.empty(1, 16, 2, *AREA), torch.tensor([[0, 10]]))
    prepared = model.prepare([level], torch.arange(1, WINDOW + 1)[None], AREA, condition, 10.0)
    with FlopCounterMode(display=False) as counter:
        model.predict(torch.empty(1, 16, WINDOW, *AREA), torch.ones(1), prepared)  # type: ignore[arg-type]
    return float(counter.get_total_flops())


@pytest.mark.parametrize(
    ("config", "image"), [(HUNYUAN, IMAGE), (WAN, 0), (PLAIN, 0)], ids=["hunyuan", "helios", "wan"]
)
def test_it_is_what_pytorch_counts(config: HunyuanVideoConfig | WanConfig, image: int) -> None:
    with torch.device("meta"):
        model = (
            PackedHunyuanVideo(config)
            if isinstance(config, HunyuanVideoConfig)
            else PackedWan(config)
        )
        condition = TextCondition(
            torch.empty(1, TEXT, 4096), torch.empty(1, 768), torch.empty(1, IMAGE, 1152)
        )
        found = counted(model, condition)
    frame = AREA[0] * AREA[1] // 4
    ours = step_flops(model, StepTokens(WINDOW * frame, 2 * frame, TEXT + image))
    # PyTorch counts the patches, the modulations and the refined text of this step, too.
    assert ours == pytest.approx(found, rel=0.01)
    assert ours < found


def test_the_released_layout_needs_about_half_a_petaflop() -> None:
    """704 x 544 with the released packing; a public estimate of the same step is 0.47."""
    with torch.device("meta"):
        model = PackedHunyuanVideo(HunyuanVideoConfig())
    frame = 88 * 68 // 4
    history = 2 * frame + frame // 4 + 2 * 11 * 9 * 2
    assert 0.4e15 < step_flops(model, StepTokens(9 * frame, history, 829)) < 0.55e15


def test_a_model_that_is_not_known_counts_nothing() -> None:
    assert step_flops(object(), StepTokens(1, 1, 1)) == 0
