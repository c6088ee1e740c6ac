"""What a test does with the web page, in the words of somebody in front of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, Page

from tests.support.processes import wait_for

OpenPage = Callable[..., Page]
"""Opens a URL in a fresh browser profile: (url, **context options)."""
PATIENCE_SECONDS = 60
"""How long a browser may take to do anything, on a machine that does much else."""

_PLAYING = """[...document.querySelectorAll('#screen video')].some(
    video => !video.hidden && video.videoWidth > 0 && video.currentTime > 0 && !video.error)"""


def until(page: Page, expression: str) -> None:
    """Wait until JavaScript is true. The page's policy forbids Playwright's own way of waiting."""
    wait_for(lambda: page.evaluate(expression), PATIENCE_SECONDS)


def until_playing(page: Page) -> None:
    """Wait until a film moves on the screen."""
    until(page, _PLAYING)


def choose(page: Page, photo: Path) -> None:
    """Choose a picture and wait until it is seen."""
    page.set_input_files("#file", photo)
    page.wait_for_selector("#picture:visible")


def start_video(page: Page, photo: Path, prompt: str = "A girl dances") -> str:
    """Fill in the least that is needed and submit; the job's id."""
    choose(page, photo)
    page.fill("#prompt", prompt)
    page.click("#submit")
    until(page, "location.hash.length === 33")
    return str(page.evaluate("location.hash.slice(1)"))


def cells(page: Page) -> Locator:
    """The sections on the timeline, in the order of the video."""
    return page.locator("#track button")
