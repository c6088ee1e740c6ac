"""From a picture to the finished video, as somebody in front of the page sees it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from redis import Redis

from service.contract.errors import Problem
from service.contract.events import Picture
from service.contract.job import Lane
from service.contract.record import Record
from tests.service.conftest import RunningGateway
from tests.support.browsing import OpenPage, cells, start_video, until, until_playing
from tests.support.films import FilmWorker
from tests.support.keys import make_key
from tests.support.swift import ACCESS_KEY, REGION, SECRET_KEY, Swift


def test_sections_come_from_the_end_and_play_before_the_video_is_finished(
    page: Page, film_worker: FilmWorker, photo: Path, gateway: RunningGateway
) -> None:
    job_id = start_video(page, photo, "A girl dances")
    expect(page.locator("#stage-title")).to_be_focused()
    expect(page.locator("#stage-title")).to_have_text("Waiting for a worker")
    expect(page.locator("#eta")).to_have_text("Number 1 in the queue")
    sections = cells(page)
    expect(sections).to_have_count(4)

    film_worker.encode()
    sampling = film_worker.claim(Lane.RENDER)
    film_worker.record.report_step(sampling, 8, 16)
    expect(sections.nth(3)).to_have_attribute("data-state", "sampling")
    expect(page.locator("#eta")).to_contain_text("step 8 of 16")
    expect(sections.nth(3)).to_have_accessible_name(
        "From 3.6 s to 4.8 s, made as number 1: being made now"
    )
    film_worker.commit(sampling)
    expect(sections.nth(3)).to_have_attribute("data-state", "decoding")
    film_worker.run(Lane.DELIVER)
    expect(sections.nth(3)).to_have_attribute("data-state", "ready")
    until_playing(page)
    expect(sections.nth(3)).to_have_attribute("aria-current", "true")
    expect(sections.nth(0)).to_have_attribute("data-state", "waiting")
    expect(sections.nth(3).locator("canvas")).to_have_count(1)

    for _ in range(3):
        film_worker.section()
    expect(sections.nth(0)).to_have_attribute("data-state", "ready")
    film_worker.run(Lane.DELIVER)
    expect(page.locator("#stage-title")).to_have_text("Your video is ready")
    until(page, "document.querySelector('#screen video').duration > 4.7")
    until_playing(page)
    with page.expect_download() as download:
        page.click("text=Download")
    assert download.value.suggested_filename == f"{job_id}.mp4"
    link = httpx.get(f"{gateway.url}/jobs/{job_id}/video", headers={"Accept": "application/json"})
    found = hashlib.sha256(Path(download.value.path()).read_bytes()).hexdigest()
    assert found == link.json()["sha256"]
    page.locator(".brand").click()
    expect(page.locator("#stage-title")).to_have_text("Your video appears here")
    page.click("#longer")
    expect(page.locator("#cost")).to_contain_text(
        re.compile(r"5 sections × 16 steps: (a few seconds|about \d+ s), judging")
    )


def test_a_section_is_seen_while_it_is_sampled(
    page: Page, film_worker: FilmWorker, photo: Path
) -> None:
    start_video(page, photo)
    film_worker.encode()
    sampling = film_worker.claim(Lane.RENDER)
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(out, "JPEG")
    picture = Picture(out.getvalue(), 64, 64, "image/jpeg")
    last = cells(page).nth(3)
    # Previews are told once and not kept, and the page may still be connecting: a worker goes on.
    for step in range(3, 16):
        film_worker.record.report_preview(sampling, step, 16, picture)
        with contextlib.suppress(AssertionError):
            expect(last.locator("img.preview")).to_have_count(1, timeout=2000)
            break
    expect(last.locator("img.preview")).to_have_count(1)
    large = page.get_by_alt_text("What the section being made looks like so far")
    expect(large).to_be_visible()
    until(page, "document.querySelector('#screen img').naturalWidth === 64")
    film_worker.commit(sampling)
    film_worker.run(Lane.DELIVER)
    # The clip takes the place of its preview, and the screen plays.
    expect(last.locator("canvas")).to_have_count(1)
    expect(last.locator("img.preview")).to_have_count(0)
    until_playing(page)


def test_a_video_made_elsewhere_is_seen_in_the_queue_and_can_be_deleted(
    page: Page, film_worker: FilmWorker, photo: Path, gateway: RunningGateway
) -> None:
    form = {"prompt": "made elsewhere", "seconds": "1.2"}
    files = {"image": photo.read_bytes()}
    elsewhere = httpx.post(f"{gateway.url}/jobs", data=form, files=files).json()["id"]
    start_video(page, photo)
    card = page.locator("#shelf li").filter(has_text="made elsewhere")
    expect(card).to_contain_text("number 1")
    expect(page.locator("#shelf li")).to_have_count(2)
    card.click()
    film_worker.encode()
    film_worker.section()
    film_worker.run(Lane.DELIVER)
    expect(page.locator("#stage-title")).to_have_text("Your video is ready")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#stage-title")).to_have_text("Your video appears here")
    expect(page.locator("#shelf li")).to_have_count(1)
    assert httpx.get(f"{gateway.url}/jobs/{elsewhere}").status_code == 404


def test_a_link_for_film_players_needs_no_key(
    redis_url: str, tmp_path: Path, open_gateway: Any, open_page: OpenPage, photo: Path
) -> None:
    with open_gateway(redis_url, tmp_path / "storage", auth="keys") as gateway:
        page = open_page(gateway.url)
        page.evaluate(f"sessionStorage.setItem('framepack.key', '{make_key(redis_url, 'ann')}')")
        page.reload()
        start_video(page, photo)
        page.click("text=Settings of this video")
        page.click("text=Get a link")
        link = page.get_by_text("Playlist, good for six hours").get_attribute("href")
        assert link is not None
        assert httpx.get(link).text.startswith("#EXTM3U")
        # A browser's own EventSource cannot send a key; the same kind of token lets it in.
        events = link.replace("playlist.m3u8", "events")
        seen = page.evaluate(
            """url => new Promise(resolve => {
                const source = new EventSource(url);
                source.addEventListener("snapshot", event => {
                    source.close();
                    resolve(JSON.parse(event.data).data.status);
                });
            })""",
            events,
        )
        assert seen == "queued"
        page.close()  # or it complains that its gateway goes away


def test_clips_follow_each_other_without_a_hand(
    page: Page, film_worker: FilmWorker, photo: Path
) -> None:
    page.check("#order-forward")
    start_video(page, photo)
    film_worker.encode()
    film_worker.section()
    film_worker.section()
    sections = cells(page)
    expect(sections.nth(1)).to_have_attribute("data-state", "ready")
    sections.nth(0).click()
    expect(sections.nth(0)).to_have_attribute("aria-current", "true")
    expect(sections.nth(1)).to_have_attribute("aria-current", "true")
    until_playing(page)


def test_the_address_brings_a_video_back_and_its_settings_can_be_used_again(
    page: Page, film_worker: FilmWorker, photo: Path
) -> None:
    page.click("text=More settings")
    page.fill("#setting-seed", "77")
    page.fill("#setting-steps", "5")
    page.check("#order-forward")
    page.locator("#sections").press("ArrowLeft")
    start_video(page, photo, "A boat leaves")
    page.reload()
    expect(page.locator("#stage-title")).to_have_text("Waiting for a worker")
    expect(page.locator(".card-title")).to_have_text("A boat leaves")
    expect(page.locator(".card-status")).to_contain_text("Waiting, number 1")
    page.click("text=Reuse settings")
    expect(page.locator("#prompt")).to_have_value("A boat leaves")
    expect(page.locator("#prompt")).to_be_focused()
    expect(page.locator("#setting-seed")).to_have_value("77")
    expect(page.locator("#setting-steps")).to_have_value("5")
    expect(page.locator("#order-forward")).to_be_checked()
    expect(page.locator("#length")).to_have_text("3.6 s")
    expect(page.locator("#picture-about")).to_contain_text("96 × 96")


def test_what_was_made_of_a_cancelled_video_still_plays(
    page: Page, film_worker: FilmWorker, photo: Path
) -> None:
    start_video(page, photo)
    film_worker.encode()
    film_worker.section()
    expect(cells(page).nth(3)).to_have_attribute("data-state", "ready")
    film_worker.run(Lane.RENDER)
    expect(cells(page).nth(2)).to_have_attribute("data-state", "decoding")
    page.click("button:text-is('Cancel'):visible")
    expect(page.locator("#stage-title")).to_have_text("Cancelled")
    expect(page.locator("#stage-title")).to_be_focused()
    expect(cells(page).nth(2)).to_have_attribute("data-state", "never")
    cells(page).nth(3).click()
    until_playing(page)


def test_a_failed_video_says_why(page: Page, film_worker: FilmWorker, photo: Path) -> None:
    start_video(page, photo)
    task = film_worker.claim(Lane.RENDER)
    reason = Problem(code="broken", title="It broke", detail="The weights do not fit this preset.")
    film_worker.record.fail(task, reason)
    expect(page.locator("#stage-title")).to_have_text("This video could not be finished")
    expect(page.locator("#failure")).to_contain_text("The weights do not fit this preset.")


def test_a_pause_and_a_lost_attempt_are_told(
    page: Page, film_worker: FilmWorker, photo: Path
) -> None:
    job_id = start_video(page, photo)
    film_worker.encode()
    # A retry is told to whoever listens, so first the page must.
    expect(page.locator("#stage-title")).to_have_text("Making your video")
    lost = Problem(code="lost", title="Lost", detail="It was lost.", retryable=True)
    film_worker.record.fail(film_worker.claim(Lane.RENDER), lost)
    expect(page.locator("#say")).to_contain_text("goes on from the last finished section")
    film_worker.section()
    expect(page.locator("#say")).to_have_text("Making section 2 of 4. 1 ready to play.")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#stage-title")).to_have_text("Paused")
    assert film_worker.record.get(job_id).status == "paused"
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#stage-title")).to_have_text("Making your video")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_can_be_dropped_or_pasted_anywhere(page: Page, photo: Path, way: str) -> None:
    page.evaluate(
        """([way, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
            const event = way === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            document.body.dispatchEvent(event);
        }""",
        [way, list(photo.read_bytes())],
    )
    expect(page.locator("#picture")).to_have_accessible_name("Your picture, photo.png")
    expect(page.locator("#picture-about")).to_contain_text("96 × 96")


def test_an_example_fills_in_picture_and_words(page: Page) -> None:
    page.get_by_role("button", name="A red triangle on teal stripes").click()
    expect(page.locator("#prompt")).to_have_value(
        "a red triangle that bounces on the floor over a striped teal background"
    )
    expect(page.locator("#picture")).to_be_visible()


def test_clips_play_from_a_store_of_another_origin(
    open_gateway: Callable[..., AbstractContextManager[RunningGateway]],
    open_page: OpenPage,
    redis_url: str,
    redis: Redis,
    swift: Swift,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    photo: Path,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    boto3.client("s3", endpoint_url=swift.endpoint, region_name=REGION).create_bucket(Bucket="page")
    store = f"s3://page?endpoint={swift.endpoint}&region={REGION}"
    with open_gateway(redis_url, tmp_path, storage_url=store) as gateway:
        page = open_page(gateway.url)
        start_video(page, photo)
        worker = FilmWorker(
            Record(redis, gateway.settings.record_policy()), gateway.app.state.services.storage
        )
        worker.encode()
        worker.section()
        until_playing(page)
        source = page.locator("#screen video:visible").get_attribute("src")
        assert source is not None
        assert source.startswith(swift.endpoint)
        expect(cells(page).nth(3).locator("canvas")).to_have_count(1)
        page.goto("about:blank")


def test_nothing_moves_by_itself_for_those_who_asked_for_that(
    open_page: OpenPage, gateway: RunningGateway, film_worker: FilmWorker, photo: Path
) -> None:
    page = open_page(gateway.url, reduced_motion="reduce")
    start_video(page, photo)
    film_worker.encode()
    for _ in range(4):
        film_worker.section()
    film_worker.run(Lane.DELIVER)
    expect(page.locator("#stage-title")).to_have_text("Your video is ready")
    until(page, "document.querySelector('#screen video').readyState >= 2")
    assert page.evaluate("document.querySelector('#screen video').paused")
