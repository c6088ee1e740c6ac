"""What the page does when something is wrong: the input, the key, the service, the network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, Request, expect
from redis import Redis

from service.contract.record import Record
from tests.service.conftest import RunningGateway
from tests.support.browsing import OpenPage, cells, choose, start_video, until_playing
from tests.support.films import FilmWorker
from tests.support.keys import make_key
from tests.support.valkey import free_port

OpenGateway = Callable[..., AbstractContextManager[RunningGateway]]
AWAY = "The service cannot be reached"


def expected(complaints: list[str], *words: str) -> None:
    """Take out what the browser says about answers that a test provoked."""
    complaints[:] = [text for text in complaints if not any(word in text for word in words)]


@pytest.mark.slow
def test_watching_goes_on_after_the_gateway_was_restarted(
    open_gateway: OpenGateway,
    open_page: OpenPage,
    complaints: list[str],
    redis_url: str,
    redis: Redis,
    tmp_path: Path,
    photo: Path,
) -> None:
    port = free_port()
    with open_gateway(redis_url, tmp_path / "storage", port) as gateway:
        page = open_page(gateway.url)
        asked: list[Request] = []
        page.on("request", lambda request: asked.append(request))
        start_video(page, photo)
        worker = FilmWorker(
            Record(redis, gateway.settings.record_policy()), gateway.app.state.services.storage
        )
        worker.encode()
        worker.section()
        expect(cells(page).nth(3)).to_have_attribute("data-state", "ready")
    expect(page.locator("#outage-text")).to_contain_text(AWAY)
    expect(page.locator("#connection")).to_have_text("Reconnecting")
    worker.section()
    asked.clear()
    with open_gateway(redis_url, tmp_path / "storage", port):
        # Not `click`, which waits for a button that is gone once the page came back by itself.
        page.locator("#outage-retry").dispatch_event("click")
        expect(cells(page).nth(2)).to_have_attribute("data-state", "ready")
        expect(page.locator("#outage")).to_be_hidden()
        expect(page.locator("#connection")).to_be_hidden()
        streams = [request for request in asked if request.url.endswith("/events")]
        assert int(streams[-1].headers["last-event-id"]) >= 5
        worker.section()
        expect(cells(page).nth(1)).to_have_attribute("data-state", "ready")
        cells(page).nth(1).click()
        until_playing(page)
        expected(complaints, "ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED")
        page.goto("about:blank")


def test_a_submission_while_the_service_is_away_loses_nothing(
    open_gateway: OpenGateway,
    open_page: OpenPage,
    complaints: list[str],
    redis_url: str,
    tmp_path: Path,
    photo: Path,
) -> None:
    port = free_port()
    with open_gateway(redis_url, tmp_path, port) as gateway:
        page = open_page(gateway.url)
        choose(page, photo)
        page.fill("#prompt", "A girl dances")
    page.click("#submit")
    expect(page.locator("#form-errors")).to_contain_text(AWAY)
    expect(page.locator("#form-errors")).to_be_focused()
    with open_gateway(redis_url, tmp_path, port):
        page.click("#submit")
        expect(page.locator("#stage-title")).to_have_text("Waiting for a worker")
        page.goto("about:blank")
    expected(complaints, "ERR_CONNECTION_REFUSED")


def test_without_a_picture_an_order_that_needs_none_makes_a_video(page: Page) -> None:
    page.fill("#prompt", "A girl dances")
    page.click("#submit")
    expect(page.locator("#error-image")).to_contain_text("an order that needs none: From the start")
    page.check("#order-forward")
    page.click("#submit")
    expect(page.locator("#stage-title")).to_have_text("Waiting for a worker")
    expect(page.locator("#error-image")).to_have_text("")


def test_what_is_missing_is_said_at_the_field_and_in_a_summary_that_leads_there(
    page: Page, photo: Path
) -> None:
    page.click("#submit")
    expect(page.locator("#form-errors")).to_be_focused()
    expect(page.locator("#error-image")).to_contain_text("Choose the picture")
    expect(page.locator("#prompt")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#prompt")).to_have_accessible_description(
        "Say who moves, and how. Say what happens in the video."
    )
    page.locator("#form-errors").get_by_role("button", name="What happens").click()
    expect(page.locator("#prompt")).to_be_focused()
    choose(page, photo)
    expect(page.locator("#form-errors")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("words.txt", "This is not a PNG, JPEG or WebP picture"),
        ("broken.png", "This picture cannot be read"),
        ("small.png", "20 × 90 pixels; each side needs at least 64"),
        ("large.png", "4100 × 70 pixels; no side may have more than 4096"),
        ("heavy.png", "at most 10.5 MB can be sent"),
    ],
)
def test_a_picture_that_cannot_be_used_is_refused_before_it_is_sent(
    page: Page, tmp_path: Path, name: str, reason: str
) -> None:
    path = tmp_path / name
    sizes = {"small.png": (20, 90), "large.png": (4100, 70)}
    if name in sizes:
        Image.new("RGB", sizes[name]).save(path)
    else:
        path.write_bytes(b"words" * (2_200_000 if name == "heavy.png" else 1))
    page.set_input_files("#file", path)
    expect(page.locator("#error-image")).to_contain_text(reason)
    expect(page.locator("#form-errors")).to_be_focused()


def test_what_only_the_service_can_refuse_is_shown_at_its_field(
    page: Page, photo: Path, complaints: list[str]
) -> None:
    choose(page, photo)
    page.fill("#prompt", "A girl dances")
    page.click("text=More settings")
    page.fill("#setting-schedule", "f1k1_g9_nonsense")
    page.click("text=More settings")
    page.click("#submit")
    expect(page.locator("#error-schedule")).to_contain_text("at character")
    page.locator("#form-errors").get_by_role("button", name="Packing schedule").click()
    expect(page.locator("#setting-schedule")).to_be_focused()
    expected(complaints, "422")


def test_a_value_beyond_its_limit_names_the_limit(page: Page, photo: Path) -> None:
    choose(page, photo)
    page.fill("#prompt", "A girl dances")
    page.click("text=More settings")
    page.fill("#setting-steps", "500")
    page.click("#submit")
    expect(page.locator("#error-steps")).to_contain_text("100")


def test_the_length_cannot_be_more_than_the_service_makes(page: Page) -> None:
    page.locator("#sections").press("End")
    expect(page.locator("#length")).to_have_text("2 min 0 s")
    page.click("#longer")
    expect(page.locator("#length")).to_have_text("2 min 0 s")


def test_a_video_that_is_gone_says_so(
    open_page: OpenPage, gateway: RunningGateway, complaints: list[str]
) -> None:
    page = open_page(f"{gateway.url}/#{'0' * 32}")
    expect(page.locator("#stage-title")).to_have_text("This video is not here any more")
    expected(complaints, "404")


def test_a_link_that_has_expired_is_renewed(
    page: Page, film_worker: FilmWorker, photo: Path, complaints: list[str]
) -> None:
    start_video(page, photo)
    page.route("**/files/**", lambda route: route.fulfill(status=403), times=2)
    film_worker.encode()
    film_worker.section()
    expect(cells(page).nth(3)).to_have_attribute("data-state", "ready")
    until_playing(page)
    expected(complaints, "403")


def test_a_link_may_bring_the_key(
    open_gateway: OpenGateway,
    open_page: OpenPage,
    redis_url: str,
    tmp_path: Path,
    photo: Path,
) -> None:
    """As `up` prints it: who follows the link is asked for nothing."""
    key = make_key(redis_url, "ann")
    with open_gateway(redis_url, tmp_path, auth="keys") as gateway:
        page = open_page(f"{gateway.url}/#key={key}")
        expect(page.locator("#open-access")).to_be_visible()
        assert page.evaluate("location.href") == f"{gateway.url}/"
        choose(page, photo)
        page.fill("#prompt", "A girl dances")
        page.click("#submit")
        expect(page.locator("#stage-title")).to_have_text("Waiting for a worker")
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        page.goto("about:blank")


def test_a_key_is_asked_for_checked_and_kept_in_the_tab(
    open_gateway: OpenGateway,
    open_page: OpenPage,
    complaints: list[str],
    redis_url: str,
    tmp_path: Path,
    photo: Path,
) -> None:
    right = make_key(redis_url, "ann")
    with open_gateway(redis_url, tmp_path, auth="keys") as gateway:
        page = open_page(gateway.url)
        choose(page, photo)
        page.fill("#prompt", "A girl dances")
        page.click("#submit")
        expect(page.locator("#access")).to_be_visible()
        expect(page.locator("#key")).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#access")).to_be_hidden()
        page.click("#submit")
        expect(page.locator("#error-key")).to_contain_text("does not know this key")
        page.fill("#key", right)
        page.keyboard.press("Enter")
        page.click("#submit")
        expect(page.locator("#stage-title")).to_have_text("Waiting for a worker")
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        page.click("#open-access")
        page.click("#forget")
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [0, 0]
        expect(page.locator("#access")).to_be_visible()
        page.goto("about:blank")
    expected(complaints, "401")
