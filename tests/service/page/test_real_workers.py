"""The page in front of the whole service with the shipped model: what a user's first video is."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from service.up.stack import Stack
from tests.support.browsing import OpenPage, cells, until, until_playing


@pytest.mark.slow
def test_an_example_becomes_a_video(open_page: OpenPage, tmp_path: Path) -> None:
    with Stack(tmp_path, open=True) as stack:
        page = open_page(stack.url)
        page.get_by_role("button", name="A yellow ball on grey stripes").click()
        for _ in range(2):
            page.click("#shorter")
        page.click("#submit")
        expect(cells(page)).to_have_count(2)
        expect(page.locator("#stage-title")).to_have_text("Your video is ready", timeout=90_000)
        until(page, "document.querySelector('#screen video').duration > 2.4")
        until_playing(page)
        page.goto("about:blank")
