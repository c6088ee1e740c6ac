"""A `tiny` job's sampler, today's against the first version's: the demo's request, sampling only.

The first version is an earlier commit of this repository, checked out beside it for the run; both
sample the same request with the shipped weights, in processes of their own, in turn. What counts is
the CPU time of the denoising steps and of whatever a section prepares for them: encoders, decoding
and video encoding are left out. ``ratio`` is the first version's time over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench._common import emit
from framepack.presets import SHIPPED_TINY

FIRST = "7d0c848"
"""The commit that told a newcomer how to run it."""

_ROOT = Path(__file__).parents[1]

_CHILD = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
from framepack.generation.generate import Encoded, Sampled, Stepped, generate
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.presets import load_preset
from framepack.world.render import render
from framepack.world.scene import FIRST_HELD_OUT_SEED, draw_scene

weights, output = sys.argv[1:]
torch.set_num_threads(1)
scene = draw_scene(FIRST_HELD_OUT_SEED + 1)
models = load_preset("tiny", weights, "cpu")
request = GenerationRequest(prompt=scene.caption, preset="tiny", seconds=5.0, steps=16, seed=31337)
plan = plan_generation(request, (64, 64))
seconds, last = 0.0, 0.0
for event in generate(models, plan, render(scene, 1).frames[0], Path(output)):
    now = time.process_time()
    if isinstance(event, (Stepped, Sampled)):
        seconds += now - last
        if isinstance(event, Stepped):
            estimate = event.step.estimate
    last = now
np.save(output + ".npy", estimate.float().numpy())
print(json.dumps(seconds))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both in turn and print the ratio of their medians."""
    parser = argparse.ArgumentParser(prog="python -m bench sampler", description=__doc__)
    parser.add_argument("--first", default=FIRST, help="commit to compare with (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        tree, out = Path(folder, "first"), Path(folder)
        _git("worktree", "add", "--detach", str(tree), options.first)
        try:
            result = _compare(tree, out, options.rounds)
        finally:
            _git("worktree", "remove", "--force", str(tree))
    emit("sampler", vars(options), result, as_json=options.json)
    return 0


def _compare(first: Path, out: Path, rounds: int) -> dict[str, object]:
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append(_sample(first, out / "theirs.mp4"))
        ours.append(_sample(_ROOT, out / "ours.mp4"))
    made = [np.load(out / f"{name}.mp4.npy") for name in ("theirs", "ours")]
    return {
        "ratio": round(statistics.median(theirs) / statistics.median(ours), 3),
        "max_abs_difference": float(np.abs(made[0] - made[1]).max()),
        "first_cpu_seconds": theirs,
        "our_cpu_seconds": ours,
    }


def _sample(tree: Path, output: Path) -> float:
    """CPU seconds of sampling with the code of a tree."""
    output.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(SHIPPED_TINY), str(output)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
    )
    return round(float(json.loads(done.stdout.splitlines()[-1])), 3)


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
