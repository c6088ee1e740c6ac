"""Looking at a job without a key: tokens, the latest preview, the playlist while it grows."""

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from redis import Redis

from service.api.view_tokens import ViewTokens
from service.contract.events import Picture
from service.contract.job import Lane
from service.contract.record import Record
from tests.service.conftest import Submit
from tests.support.films import FilmWorker
from tests.support.keys import make_key
from tests.support.lanes import HandWorker

SECRET = "a secret for these tests"


def test_a_token_opens_one_job_for_looking_only(
    redis_url: str, tmp_path: Path, picture: bytes, open_gateway: Any
) -> None:
    with open_gateway(redis_url, tmp_path / "storage", auth="keys") as gateway:
        headers = {"Authorization": f"Bearer {make_key(redis_url, 'ann')}"}
        with httpx.Client(base_url=gateway.url, headers=headers) as ann:
            one, other = (
                ann.post("/jobs", data={"prompt": "x", "seed": seed}, files={"image": picture})
                for seed in ("1", "2")
            )
            path, foreign = (f"/jobs/{answer.json()['id']}" for answer in (one, other))
            given = ann.get(f"{path}/token").json()
        query = {"token": given["token"]}
        with httpx.Client(base_url=gateway.url) as nobody:
            with nobody.stream("GET", given["events"]) as stream:
                assert stream.status_code == 200
                assert next(stream.iter_lines()) == "id: 1"
            assert nobody.get(given["playlist"]).status_code == 200
            assert nobody.get(f"{path}/preview", params=query).json()["code"] == "no_preview"
            assert nobody.get(f"{path}/playlist.m3u8").json()["code"] == "unauthenticated"
            for refused in (f"{foreign}/events", f"{foreign}/playlist.m3u8"):
                answer = nobody.get(refused, params=query)
                assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
            # What it does not open looks at the key alone.
            for method, rest in (("GET", ""), ("GET", "/video"), ("POST", "/cancel")):
                answer = nobody.request(method, f"{path}{rest}", params=query)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("token", ["", "1", "1.2", "x" * 66, f"99999999999.{'0' * 64}"])
def test_what_is_no_token_is_refused(http: httpx.Client, submit: Submit, token: str) -> None:
    answer = http.get(f"/jobs/{submit()['id']}/playlist.m3u8", params={"token": token})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


def test_a_token_ends_by_itself(http: httpx.Client, submit: Submit, gateway: Any) -> None:
    job_id = submit()["id"]
    earlier = ViewTokens(gateway.settings.signing_secret, clock=lambda: time.time() - 100)
    for seconds, status in ((99, 401), (160, 200)):
        token, _ = earlier.issue(job_id, seconds)
        answer = http.get(f"/jobs/{job_id}/playlist.m3u8", params={"token": token})
        assert answer.status_code == status
    assert http.get(f"/jobs/{job_id}/token", params={"seconds": 0}).status_code == 422


def test_a_first_connection_may_go_on_after_an_event(submit: Submit, worker: HandWorker) -> None:
    job = submit()
    worker.run_all(1)
    answer = httpx.get(job["links"]["events"], params={"after": "4"})
    assert [line for line in answer.text.splitlines() if line.startswith("id:")] == [
        "id: 5",
        "id: 6",
    ]
    assert httpx.get(job["links"]["events"], params={"after": "-"}).status_code == 400


def test_the_latest_preview_is_a_picture(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    job_id = submit()["id"]
    assert http.get(f"/jobs/{job_id}/preview").status_code == 404
    worker.run(Lane.RENDER)
    task = worker.claim(Lane.RENDER)
    for image in (b"first", b"\xff\xd8second"):
        worker.record.report_preview(task, 4, 16, Picture(image, 64, 48, "image/jpeg"))
    answer = http.get(f"/jobs/{job_id}/preview")
    assert (answer.headers["content-type"], answer.content) == ("image/jpeg", b"\xff\xd8second")


def frames_played(url: str, times: list[float]) -> None:
    """Play a playlist as a player does: from its beginning to its end, however long that takes."""
    options = {"live_start_index": "0"}
    with av.open(url, options=options, timeout=30) as film:
        for frame in film.decode(video=0):
            assert frame.pts is not None
            times.append(float(frame.pts * frame.time_base))


def test_a_player_watches_a_forward_video_while_it_is_made(
    http: httpx.Client, submit: Submit, gateway: Any, redis: Redis
) -> None:
    job = submit(seconds="3.6", order="forward")
    parts = gateway.app.state.services
    worker = FilmWorker(Record(redis, gateway.settings.record_policy()), parts.storage)
    playlist = http.get(f"/jobs/{job['id']}/token").json()["playlist"]
    assert "EXTINF" not in httpx.get(playlist).text
    worker.encode()
    worker.section()
    times: list[float] = []
    player = threading.Thread(target=frames_played, args=(playlist, times))
    player.start()
    deadline = time.monotonic() + 20
    while len(times) < 30 and time.monotonic() < deadline:
        time.sleep(0.05)
    # It plays, and the job is not at its end.
    assert 30 <= len(times) <= 37
    assert http.get(f"/jobs/{job['id']}").json()["status"] == "running"
    worker.section()
    worker.section()
    worker.run(Lane.DELIVER)
    player.join(40)
    assert not player.is_alive()
    assert len(times) == job["plan"]["num_frames"]
    assert times == pytest.approx([number / 30 for number in range(len(times))], abs=1e-3)


def test_the_playlist_grows_and_what_was_listed_stays(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    job = submit(seconds="2.4", order="forward")
    path = f"/jobs/{job['id']}/playlist.m3u8"
    texts = [http.get(path).text]
    worker.run(Lane.RENDER)
    for _ in range(2):
        worker.run(Lane.RENDER)
        worker.run(Lane.DELIVER)
        texts.append(http.get(path).text)
    worker.run(Lane.DELIVER)
    texts.append(http.get(path).text)
    for earlier, later in itertools.pairwise(texts):
        assert later.startswith(earlier)
    assert [text.count("#EXTINF") for text in texts] == [0, 1, 2, 2]
    assert texts[-1].endswith("#EXT-X-ENDLIST\n")
    clip = http.get(f"/jobs/{job['id']}/clips/1.mp4", follow_redirects=True)
    assert clip.content.endswith(b"deliver 1")
    assert http.get(f"/jobs/{job['id']}/clips/2.mp4").json()["code"] == "no_clip"
