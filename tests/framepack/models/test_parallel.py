"""A sequence split between processes gives what one gives, at sizes that nothing divides."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from framepack.models.base import LevelLatents, TextCondition
from framepack.models.fused import fuse
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.parallel import SequenceParallel, Shares
from framepack.packing.schedule import Kernel

CONFIG = HunyuanVideoConfig(
    num_attention_heads=4,
    attention_head_dim=16,
    num_layers=2,
    num_single_layers=2,
    num_refiner_layers=1,
    text_embed_dim=12,
    pooled_projection_dim=8,
    image_proj_dim=8,
    rope_axes_dim=(4, 6, 6),
)
SIZES = ((10, 14), (18, 22), (8, 8))

WORKER = """
import sys
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tests.framepack.models.test_parallel import split_velocities
store, rank, count, out = sys.argv[1:]
meeting = f"file://{store}"
dist.init_process_group("gloo", init_method=meeting, rank=int(rank), world_size=int(count))
save_file(split_velocities(), f"{out}/{rank}.safetensors")
dist.destroy_process_group()
"""


def build() -> PackedHunyuanVideo:
    torch.manual_seed(0)
    model = PackedHunyuanVideo(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@torch.inference_mode()
def velocities(model: PackedHunyuanVideo) -> dict[str, torch.Tensor]:
    """Two steps of a section with history, at each size."""
    found = {}
    for height, width in SIZES:
        generator = torch.Generator().manual_seed(1)

        def draw(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        levels = [
            LevelLatents(Kernel(2, 4, 4), draw(1, 16, 2, height, width), torch.tensor([[4, 5]])),
            LevelLatents(Kernel(1, 2, 2), draw(1, 16, 1, height, width), torch.tensor([[0]])),
        ]
        condition = TextCondition(draw(1, 5, 12), draw(1, 8), draw(1, 3, 8))
        positions, size = torch.tensor([[1, 2, 3]]), (height, width)
        prepared = model.prepare(levels, positions, size, condition, 6.0)
        target = draw(1, 16, 3, height, width)
        for timestep in (900.0, 300.0):
            velocity = model.predict(target, torch.tensor([timestep]), prepared)
            found[f"{height}x{width} {timestep:g}"] = velocity.contiguous()
    return found


def split_velocities() -> dict[str, torch.Tensor]:
    """In a process of a group."""
    return velocities(fuse(build(), SequenceParallel(CONFIG.num_attention_heads)))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2])
def test_processes_equal_one_process(count: int, tmp_path: Path) -> None:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", WORKER, str(tmp_path / "store")]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(count), str(tmp_path)], env=environment, cwd=root
        )
        for rank in range(count)
    ]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0] * count
    finally:
        for worker in workers:
            worker.kill()
    expected = velocities(fuse(build()))
    for rank in range(count):
        found = load_file(tmp_path / f"{rank}.safetensors")
        for name, velocity in expected.items():
            assert (found[name] - velocity).abs().max().item() <= 1e-5, name
            assert velocity.abs().mean().item() > 0.1


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("tokens", [7, 8, 17226, 18329])
def test_shares_are_everything_once_and_even(tokens: int, count: int) -> None:
    parts = [Shares.of(tokens, 5, rank, count) for rank in range(count)]
    covered = [n for share in parts for n in range(tokens)[share.mine(share.image)]]
    assert covered == list(range(tokens))
    assert max(parts[0].image) - min(parts[0].image) <= 1
    assert sum(parts[0].joint) == tokens + 5
