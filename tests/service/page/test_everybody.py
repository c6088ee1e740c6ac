"""The page for everybody: keyboard, screen reader, phone, dark rooms; and nobody else's scripts."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import FileChooser, Page, expect

from tests.service.conftest import RunningGateway
from tests.support.browsing import OpenPage, cells, start_video, until_playing
from tests.support.films import COLOURS, FilmWorker
from tests.support.processes import wait_for

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def assert_accessible(page: Page) -> None:
    results = Axe().run(page)
    assert len(results.response["passes"]) > 20, "the rules were not looked at"
    assert results.violations_count == 0, results.generate_report()


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, as somebody without a mouse would."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"the Tab key does not lead to {selector}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_state_of_the_page_breaks_the_accessibility_rules(
    open_page: OpenPage,
    gateway: RunningGateway,
    film_worker: FilmWorker,
    photo: Path,
    scheme: str,
) -> None:
    page = open_page(gateway.url, color_scheme=scheme, reduced_motion="reduce")
    page.click("text=More settings")
    assert_accessible(page)
    page.click("#submit")
    expect(page.locator("#form-errors")).to_be_visible()
    assert_accessible(page)
    start_video(page, photo)
    film_worker.encode()
    film_worker.section()
    expect(cells(page).nth(3)).to_have_attribute("data-state", "ready")
    page.click("text=Settings of this video")
    assert_accessible(page)


def test_everything_can_be_done_with_the_keyboard(
    page: Page, film_worker: FilmWorker, photo: Path
) -> None:
    dialogs: list[FileChooser] = []
    page.on("filechooser", lambda dialog: dialogs.append(dialog))
    tab_to(page, "#choose")
    page.keyboard.press("Enter")
    wait_for(lambda: page.evaluate("1") and dialogs)
    dialogs[0].set_files(photo)
    expect(page.locator("#picture")).to_be_visible()
    tab_to(page, "#prompt")
    page.keyboard.type("A girl dances")
    tab_to(page, "#sections")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#sections")).to_have_attribute("aria-valuetext", "2.4 s, 2 sections")
    tab_to(page, "[name=order]")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#order-forward")).to_be_checked()
    tab_to(page, "#submit")
    page.keyboard.press("Enter")
    expect(page.locator("#stage-title")).to_be_focused()
    film_worker.encode()
    film_worker.section()
    film_worker.section()
    expect(cells(page).nth(1)).to_have_attribute("data-state", "ready")
    tab_to(page, ".cell")
    page.keyboard.press("ArrowRight")
    expect(cells(page).nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(cells(page).nth(1)).to_have_attribute("aria-current", "true")
    until_playing(page)


def test_a_screen_reader_hears_sections_but_not_every_step(
    page: Page, film_worker: FilmWorker, photo: Path
) -> None:
    start_video(page, photo)
    film_worker.encode()
    status = page.get_by_role("status").filter(has_text="Making section 1 of 4.")
    expect(status).to_be_visible()
    film_worker.section()
    expect(page.locator("#say")).to_have_text("Making section 2 of 4. 1 ready to play.")
    expect(page.locator("#eta[aria-live]")).to_have_count(0)


def test_a_phone_shows_the_video_first_and_nothing_beside_the_screen(
    open_page: OpenPage, gateway: RunningGateway, film_worker: FilmWorker, photo: Path
) -> None:
    page = open_page(gateway.url, **PHONE)
    start_video(page, photo)
    film_worker.encode()
    film_worker.section()
    expect(cells(page).nth(3)).to_have_attribute("data-state", "ready")
    stage = page.locator("#stage").bounding_box()
    form = page.locator(".composer").bounding_box()
    assert stage is not None
    assert form is not None
    assert stage["y"] < form["y"]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    small = page.evaluate(
        """[...document.querySelectorAll('button, a, input, select, summary')]
        .filter(each => each.checkVisibility() && !each.matches('.skip, .hidden-input, .link'))
        .map(each => [each.id || each.className || each.textContent, each.getBoundingClientRect()])
        .filter(([, box]) => Math.min(box.width, box.height) < 24).map(([name]) => name)"""
    )
    assert small == []
    assert_accessible(page)


def test_a_long_video_scrolls_in_its_track_and_not_the_page(
    open_page: OpenPage, gateway: RunningGateway, photo: Path
) -> None:
    page = open_page(gateway.url, **PHONE)
    page.locator("#sections").press("End")
    start_video(page, photo)
    expect(cells(page)).to_have_count(100)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    # One stop of the Tab key, however long the video.
    assert page.locator("#track [tabindex='0']").count() == 1


def test_small_videos_are_enlarged_by_a_whole_number(
    page: Page, film_worker: FilmWorker, photo: Path
) -> None:
    start_video(page, photo)
    film_worker.encode()
    film_worker.section()
    until_playing(page)
    box = page.locator("#screen video:visible").bounding_box()
    assert box is not None
    assert box["width"] > 300
    assert box["width"] % 64 == 0
    # Of the start picture, nothing shines through.
    shown = Image.open(io.BytesIO(page.locator("#screen video:visible").screenshot()))
    found = shown.convert("RGB").getpixel((20, 20))
    assert found == pytest.approx(COLOURS[3], abs=8)


def test_only_the_pages_own_files_may_run(gateway: RunningGateway) -> None:
    answer = httpx.get(gateway.url)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["media-src"] == f"'self' blob: {gateway.url}"
    script = httpx.get(f"{gateway.url}/page/js/main.js")
    assert script.headers["cache-control"] == "no-cache"
    again = {"If-None-Match": script.headers["etag"]}
    assert httpx.get(f"{gateway.url}/page/js/main.js", headers=again).status_code == 304
    assert httpx.get(f"{gateway.url}/page/none.js").json()["code"] == "not_found"
    assert httpx.get(f"{gateway.url}/page/%2e%2e/app.py").status_code == 404
