"""Two processes make the video that one makes, up to the rounding of sums."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from framepack.cli import main
from framepack.generation.encode import encode
from framepack.generation.generate import sampling_settings
from framepack.generation.history import History
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.generation.section import finish_section, sample_section
from framepack.generation.seeds import noise_generator
from framepack.media.videos import read_frames
from framepack.presets import load_preset

ROOT = Path(__file__).parents[3]
PROMPT, SECONDS, STEPS = "a red ball slides left and right", 2.4, 4
COMMAND = ("generate", PROMPT, "--seconds", str(SECONDS), "--steps", str(STEPS), "--device", "cpu")

CHILD = f"""
import sys
from safetensors.torch import save_file
from framepack.cli import main
from tests.framepack.generation.test_together import latents
status = main([*{COMMAND!r}, "-o", sys.argv[1]])
made = latents(processes=2)
import torch.distributed as dist
if dist.get_rank() == 0:
    save_file({{"latents": made}}, sys.argv[2])
dist.destroy_process_group()
sys.exit(status)
"""


def latents(processes: int) -> Tensor:
    """Of the whole video."""
    plan = plan_generation(GenerationRequest(PROMPT, seconds=SECONDS, steps=STEPS), None)
    models = load_preset("tiny", device="cpu")
    models.processes = processes
    conditioning, settings = encode(models.encoders, plan, None), sampling_settings(plan)
    history, noise = History(conditioning.start), noise_generator(plan.request.seed)
    for section in plan.sections:
        steps = sample_section(models.transformer, conditioning, section, history, settings, noise)
        history.add(section.frames, finish_section(steps))
    return history.frames(range(1, plan.num_latent_frames))


@pytest.mark.slow
def test_torchrun_splits_a_video_and_changes_only_rounding(tmp_path: Path) -> None:
    script, made = tmp_path / "child.py", tmp_path / "latents.safetensors"
    script.write_text(CHILD)
    alone, together = tmp_path / "alone.mp4", tmp_path / "together.mp4"
    assert main([*COMMAND, "-o", str(alone)]) == 0
    environment = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(script), str(together), str(made)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("frames") == 1, "only the leader reports"
    expected = latents(processes=1)
    assert expected.abs().mean() > 0.3
    # Thirty-two steps of a trained model make rounding larger; how much depends on its weights.
    torch.testing.assert_close(load_file(made)["latents"], expected, rtol=0, atol=5e-4)
    # Pixels are not compared: H.264 makes other choices for frames that differ by rounding.
    assert len([*read_frames(together, 30, 0, 69)]) == 69
