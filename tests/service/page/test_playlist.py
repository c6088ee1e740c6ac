"""Watching a video while it is made: a browser plays the playlist as it grows, and to its end."""

from __future__ import annotations

import io
import re
from pathlib import Path
from urllib.parse import urljoin

import av
import httpx
from playwright.sync_api import Page

from service.contract.job import Lane
from tests.service.conftest import RunningGateway
from tests.support.browsing import until
from tests.support.films import FilmWorker

END = "#EXT-X-ENDLIST"
PLAYER = """url => {
    // What players built on Media Source Extensions do: read the playlist again and again, and
    // append what is new in it.
    const film = document.createElement("video");
    const source = new MediaSource();
    window.film = film;
    film.muted = true;
    film.src = URL.createObjectURL(source);
    document.body.append(film);
    const piece = async (uri, size, start) => {
        const range = `bytes=${start}-${start + size - 1}`;
        const answer = await fetch(new URL(uri, url), { headers: { Range: range } });
        return answer.arrayBuffer();
    };
    const follow = async () => {
        const buffer = source.addSourceBuffer('video/mp4; codecs="avc1.64000A"');
        const append = bytes => new Promise((resolve, reject) => {
            buffer.onupdateend = resolve;
            buffer.onerror = reject;
            buffer.appendBuffer(bytes);
        });
        let seen = 0;
        for (;;) {
            const text = await (await fetch(url)).text();
            const found = /MAP:URI="(.+?)",BYTERANGE="(\\d+)@(\\d+)"/.exec(text);
            const pieces = [...text.matchAll(/BYTERANGE:(\\d+)@(\\d+)\\n(.+)/g)];
            if (!seen) await append(await piece(found[1], Number(found[2]), Number(found[3])));
            for (const [, size, start, uri] of pieces.slice(seen)) {
                await append(await piece(uri, Number(size), Number(start)));
                seen += 1;
            }
            if (text.includes("ENDLIST")) break;
            await new Promise(resolve => setTimeout(resolve, 200));
        }
        source.endOfStream();
    };
    source.onsourceopen = () => follow().catch(error => console.error(String(error)));
    film.play();
}"""
OWN_PLAYER = """url => {
    window.film = document.createElement("video");
    film.muted = true;
    film.src = url;
    document.body.append(film);
    film.play();
}"""


def frames_in(playlist: str, text: str) -> int:
    """How many frames the segments that a playlist lists hold, decoded behind their init."""

    def piece(uri: str, size: str, start: str) -> bytes:
        last = int(start) + int(size) - 1
        asked = {"Range": f"bytes={start}-{last}"}
        answer = httpx.get(urljoin(playlist, uri), headers=asked, follow_redirects=True)
        assert (answer.status_code, len(answer.content)) == (206, int(size))
        return answer.content

    ((uri, size, start),) = re.findall(r'MAP:URI="(.+?)",BYTERANGE="(\d+)@(\d+)"', text)
    film = piece(uri, size, start)
    for size, start, uri in re.findall(r"BYTERANGE:(\d+)@(\d+)\n(.+)", text):
        film += piece(uri, size, start)
    with av.open(io.BytesIO(film)) as opened:
        return sum(1 for _ in opened.decode(video=0))


def test_a_browser_plays_a_playlist_that_grows(
    page: Page, film_worker: FilmWorker, photo: Path, gateway: RunningGateway
) -> None:
    form = {"prompt": "x", "seconds": "3.6", "order": "forward"}
    picture = {"image": photo.read_bytes()}
    job = httpx.post(f"{gateway.url}/jobs", data=form, files=picture).json()
    here = f"{gateway.url}/jobs/{job['id']}"
    playlist = f"{here}/playlist.m3u8"
    film_worker.encode()
    film_worker.section()
    first = httpx.get(playlist).text
    assert (first.count("#EXTINF"), END in first) == (1, False)
    assert frames_in(playlist, first) == 37

    page.evaluate(PLAYER, playlist)
    # One section is 1.2 s. It plays all that there is, and then waits for more.
    until(page, "film.videoWidth === 64 && film.currentTime > 1")
    assert httpx.get(here).json()["status"] == "running"
    assert not page.evaluate("film.ended")
    film_worker.section()
    second = httpx.get(playlist).text
    assert second.startswith(first)
    assert (second.count("#EXTINF"), END in second) == (2, False)
    assert frames_in(playlist, second) == 73
    until(page, "film.currentTime > 2.2")
    assert httpx.get(here).json()["status"] == "running"

    film_worker.section()
    film_worker.run(Lane.DELIVER)
    whole = httpx.get(playlist).text
    assert whole.startswith(second)
    assert whole.endswith(f"{END}\n")
    assert frames_in(playlist, whole) == 109
    until(page, "film.ended && film.duration > 3.5")
    assert page.evaluate("film.error") is None


def test_a_browsers_own_player_plays_a_playlist_that_has_ended(
    page: Page, film_worker: FilmWorker, photo: Path, gateway: RunningGateway
) -> None:
    form = {"prompt": "x", "seconds": "1.2", "order": "forward"}
    picture = {"image": photo.read_bytes()}
    job = httpx.post(f"{gateway.url}/jobs", data=form, files=picture).json()
    film_worker.encode()
    film_worker.section()
    film_worker.run(Lane.DELIVER)
    page.evaluate(OWN_PLAYER, f"{gateway.url}/jobs/{job['id']}/playlist.m3u8")
    until(page, "film.ended && film.videoWidth === 64")
    assert page.evaluate("film.duration > 1.1 && !film.error")
