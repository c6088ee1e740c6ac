"""``python -m service.demo``: the main job, end to end, on this machine.

Starts the whole service with embedded parts, draws a picture in the procedural world that ``tiny``
knows, submits it with the world's own caption, shows the progress, fetches the video, stops
everything. The last line on standard output is a JSON summary.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from framepack.world.render import render
from framepack.world.scene import FIRST_HELD_OUT_SEED, draw_scene
from service.client import Client, ClientError
from service.client.progress import ProgressLine
from service.contract.job import JobStatus
from service.contract.views import JobView
from service.up.children import CannotRun
from service.up.stack import Stack

HELD_OUT_SCENE = FIRST_HELD_OUT_SEED + 1
"""A scene of the world that no training clip shows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when there is a video, 1 when not."""
    options = _parser().parse_args(arguments)
    try:
        summary = _demo(options)
    except (CannotRun, ClientError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted\n")
        return 130
    sys.stdout.write(f"{summary['video']}\n{json.dumps(summary)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.demo", description=__doc__)
    add = parser.add_argument
    add("--image", type=Path, help="a picture of your own (default: one from tiny's world)")
    add("--prompt", help="what happens (default: the picture's caption)")
    add("--seconds", type=float, default=5.0, help="length of the video (%(default)s)")
    add("--seed", type=int, default=31337, help="of all noise (%(default)s)")
    add("--output", type=Path, default=Path("out/demo.mp4"), help="the video (%(default)s)")
    return parser


def _demo(options: argparse.Namespace) -> dict[str, Any]:
    picture, caption = _picture(options.output.with_suffix(".png"))
    image = options.image or picture
    prompt = options.prompt or caption
    started = time.monotonic()
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="framepack-demo-") as data:
        _say("starting Valkey, the gateway, a render and a deliver worker ...")
        with Stack(Path(data), say=_say) as stack:
            watching = threading.Thread(target=stack.watch, args=(stop,), daemon=True)
            watching.start()
            try:
                _say(f"the service runs at {stack.url}; submitting {image}: “{prompt}”")
                job = _run_job(stack, image, prompt, options)
            finally:
                stop.set()
                watching.join()
    return {
        "video": str(options.output),
        "job": job.id,
        "frames": job.plan.num_frames,
        "sections": job.plan.num_sections,
        "seconds": round(time.monotonic() - started, 1),
    }


def _picture(path: Path) -> tuple[Path, str]:
    """Draw the start picture; its path and caption."""
    scene = draw_scene(HELD_OUT_SCENE, num_things=1)
    frame = render(scene, num_frames=1).frames[0]
    body = io.BytesIO()
    Image.fromarray(frame).save(body, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body.getvalue())
    return path, scene.caption


def _run_job(stack: Stack, image: Path, prompt: str, options: argparse.Namespace) -> JobView:
    """Submit, watch to the end, fetch.

    Raises:
        ClientError: The job did not end with a video.
    """
    line = ProgressLine(sys.stderr)
    with Client(stack.url, api_key=stack.api_key) as client:
        job = client.submit(image, prompt, seconds=options.seconds, seed=options.seed)
        for event in client.events(job.id):
            line.show(event)
        line.close()
        job = client.get(job.id)
        if job.status is not JobStatus.COMPLETED:
            reason = "" if job.error is None else f": {job.error.detail}"
            raise ClientError(f"the job {job.status.value}{reason}")
        client.fetch(job.id, options.output)
    return job


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
