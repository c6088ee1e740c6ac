"""A real Chromium in front of a real gateway; what the browser complains about fails the test."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)
from redis import Redis

from service.contract.record import Record
from tests.service.conftest import RunningGateway
from tests.support.browsing import PATIENCE_SECONDS, OpenPage, until
from tests.support.films import FilmWorker
from tests.support.system import require_program

expect.set_options(timeout=1000 * PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless; no longer than a file, since its event loop runs meanwhile."""
    program = require_program("chromium", "chromium")
    with sync_playwright() as playwright:
        # As root in a container there is no sandbox to be had; the only pages are our own.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained about; a test that causes a complaint takes it out."""
    return []


@pytest.fixture
def open_page(browser: Browser, complaints: list[str]) -> Iterator[OpenPage]:
    """Opens a URL in a fresh browser profile: (url, **context options)."""
    contexts: list[BrowserContext] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def open_at(url: str, **options: object) -> Page:
        settings = {"viewport": {"width": 1280, "height": 900}, **options}
        contexts.append(browser.new_context(**settings))  # type: ignore[arg-type]
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        # The length is known once the form has learnt what the service offers.
        until(page, "document.getElementById('length').textContent !== ''")
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def page(open_page: OpenPage, gateway: RunningGateway) -> Page:
    """The page of the module's gateway."""
    return open_page(gateway.url)


@pytest.fixture
def film_worker(gateway: RunningGateway, redis: Redis) -> FilmWorker:
    """Does the work of the module's gateway when a test says so."""
    parts = gateway.app.state.services
    return FilmWorker(Record(redis, gateway.settings.record_policy()), parts.storage)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of the usual kind."""
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((96, 96)).convert("RGB").save(path)
    return path


@pytest.fixture
def tiny_picture(tmp_path: Path) -> Path:
    """A picture that is smaller than the service takes."""
    out = io.BytesIO()
    Image.new("RGB", (20, 90)).save(out, "PNG")
    path = tmp_path / "tiny.png"
    path.write_bytes(out.getvalue())
    return path
