"""Two processes on gloo, sharded by FSDP2, are one process with the same batch."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from framepack.models.loading import WEIGHTS
from framepack.training.config import read_config
from framepack.training.stages import Training

CONFIG = """
{start}
size: nano
data: {{clips: 2, held_out: 1, latent_frames: 19}}
transformer:
  run: {{rates: {{steps: 4, warmup: 1}}, report_every: 1, save_every: 1, bfloat16: false}}
  arms: [{{name: inverted, order: inverted, share: 1}}, {{name: vanilla, order: vanilla, share: 1}}]
  batch: 4
  held_out_batch: 2
  {more}
"""


WORKER = """
import json, sys
import torch.distributed as dist
from framepack.cli import main
store, rank, commands = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
failed = [command for command in json.loads(commands) if main(command)]
dist.destroy_process_group()
sys.exit(len(failed))
"""
"""What a launcher does, but with a file to meet at, so that no port is opened to the world."""


def train_together(commands: list[list[str]], store: Path) -> None:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(store), str(rank), json.dumps(commands)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=150)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)[-4000:]
    assert "transformer: step" in said[0]
    assert "transformer: step" not in said[1]


def rows(folder: Path) -> list[list[float]]:
    with (folder / "transformer" / "log.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    return [[float(v) for k, v in row.items() if k != "cpu_seconds"] for row in table]


def exported(folder: Path) -> dict[str, torch.Tensor]:
    lora = folder / "lora.safetensors"
    return load_file(lora if lora.is_file() else folder / "weights" / "transformer" / WEIGHTS)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(nano_folder: Path, tmp_path: Path) -> None:
    """Of all weights in one go, and of a LoRA that was cut and resumed."""
    variants = {
        "accumulate: 2": "",
        "optimizer: muon": "",
        "lora: {rank: 2}": f"start: {nano_folder}",
    }
    commands, folders = [], []
    for number, (more, start) in enumerate(variants.items()):
        config, folder = tmp_path / f"{number}.yaml", tmp_path / str(number)
        config.write_text(CONFIG.format(start=start, more=more))
        command = ["train", str(config), "-o", str(folder / "two"), "--device", "cpu"]
        commands += [[*command, "--steps", "1"], command] if start else [command]
        list(Training(read_config(config), folder / "one").run())
        folders.append(folder)
    train_together(commands, tmp_path / "store")
    for folder in folders:
        one, two = rows(folder / "one"), rows(folder / "two")
        assert len(one) == len(two) == 4
        torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=1e-5)
        first, second = exported(folder / "one"), exported(folder / "two")
        assert first.keys() == second.keys()
        # AdamW steps by the rate even where a gradient is rounding alone.
        assert max((first[k].float() - second[k].float()).abs().max() for k in first) < 1e-2
