"""A browser app of another origin: Chromium itself decides what its script may do and read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page

from tests.support.keys import make_key

APP = """async ([gateway, key, picture]) => {
    const form = new FormData();
    form.append("image", new Blob([new Uint8Array(picture)]), "photo.png");
    form.append("prompt", "x");
    const answer = await fetch(`${gateway}/jobs`, {
        method: "POST",
        body: form,
        headers: { Authorization: `Bearer ${key}`, "Idempotency-Key": "once" },
    });
    const place = answer.headers.get("location");
    const headers = { Authorization: `Bearer ${key}` };
    const links = await (await fetch(new URL(`${place}/token`, gateway), { headers })).json();
    const seen = await new Promise(resolve => {
        const events = new EventSource(links.events);
        events.onerror = () => resolve("refused");
        events.addEventListener("snapshot", event => {
            events.close();
            resolve(JSON.parse(event.data).data.status);
        });
    });
    const playlist = await (await fetch(links.playlist)).text();
    return [answer.status, answer.headers.get("ratelimit-policy") !== null, seen, playlist];
}"""


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


@pytest.fixture
def app_origin() -> Iterator[str]:
    """Where an app's empty page is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextmanager
def app_page(browser: Browser, origin: str) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(origin)
    yield page
    context.close()


def run_app(page: Page, gateway: str, key: str, photo: Path) -> Any:
    return page.evaluate(APP, [gateway, key, list(photo.read_bytes())])


def test_an_app_of_a_named_origin_submits_and_follows(
    browser: Browser,
    app_origin: str,
    open_gateway: Any,
    redis_url: str,
    tmp_path: Path,
    photo: Path,
) -> None:
    settings = {"auth": "keys", "allowed_origins": (app_origin,)}
    with open_gateway(redis_url, tmp_path / "storage", **settings) as gateway:
        key = make_key(redis_url, "ann")
        with app_page(browser, app_origin) as page:
            status, limits, seen, playlist = run_app(page, gateway.url, key, photo)
    assert (status, limits, seen) == (202, True, "queued")
    assert playlist.startswith("#EXTM3U")


def test_an_app_of_another_origin_is_kept_out(
    browser: Browser,
    app_origin: str,
    open_gateway: Any,
    redis_url: str,
    tmp_path: Path,
    photo: Path,
) -> None:
    settings = {"auth": "keys", "allowed_origins": ("https://app.example.com",)}
    with open_gateway(redis_url, tmp_path / "storage", **settings) as gateway:
        key = make_key(redis_url, "ann")
        with (
            app_page(browser, app_origin) as page,
            pytest.raises(Error, match="Failed to fetch"),
        ):
            run_app(page, gateway.url, key, photo)
