"""Has the service at a URL make a short video, and checks that it is one."""

import io
import os
import sys
import time

import httpx
from PIL import Image

SECONDS = 180


def main(url: str) -> None:
    """Submit, wait, fetch."""
    deadline = time.monotonic() + SECONDS
    while not _ready(url):
        assert time.monotonic() < deadline, "the gateway is not ready"
        time.sleep(0.5)
    picture = io.BytesIO()
    Image.radial_gradient("L").resize((96, 64)).convert("RGB").save(picture, "PNG")
    headers = {"Authorization": f"Bearer {os.environ['FRAMEPACK_API_KEY']}"}
    with httpx.Client(base_url=url, timeout=30, headers=headers) as http:
        form = {"prompt": "a red ball", "seconds": "1", "steps": "4", "seed": "1"}
        answer = http.post("/jobs", data=form, files={"image": ("a.png", picture.getvalue())})
        job = answer.raise_for_status().json()
        while job["status"] not in ("completed", "failed", "cancelled"):
            assert time.monotonic() < deadline, f"still {job['status']}"
            time.sleep(0.5)
            job = http.get(f"/jobs/{job['id']}").json()
        assert job["status"] == "completed", job
        answer = http.get(f"/jobs/{job['id']}/video")
        url = answer.headers.get("location") or answer.json()["url"]
        video = httpx.get(url).raise_for_status().content
    assert video[4:8] == b"ftyp", video[:16]
    sys.stdout.write(f"images: made a video of {len(video)} bytes\n")


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main(sys.argv[1])
