"""Signed links: reused while they are fresh, never about to expire when they are given out."""

from typing import cast

from service.api.links import LINK_SECONDS, Links
from service.contract.job import Artifact, Clip
from service.contract.storage.base import Storage


class CountingStorage:
    """Signs links, and nothing else."""

    def __init__(self) -> None:
        self.signed = 0

    def signed_url(self, key: str, *, expires_in: int, content_type: str, filename: str) -> str:
        self.signed += 1
        return f"https://store/{key}?n={self.signed}&name={filename}&in={expires_in}"


ARTIFACT = Artifact(
    key="a.mp4",
    sha256="0" * 64,
    size_bytes=9,
    content_type="video/mp4",
    first_frame=36,
    num_frames=36,
    init_bytes=4,
)


def test_a_link_is_signed_anew_after_half_its_life() -> None:
    storage, now = CountingStorage(), 1_000_000.0
    links = Links(cast(Storage, storage), clock=lambda: now)
    first = links.to(ARTIFACT, "v.mp4")
    assert links.to(ARTIFACT, "v.mp4") is first
    assert links.to(ARTIFACT, "w.mp4").url != first.url
    period = links.period
    for _ in range(4 * LINK_SECONDS):
        now += 1
        left = links.to(ARTIFACT, "v.mp4").expires_at.timestamp() - now
        assert LINK_SECONDS / 2 - 1 <= left <= LINK_SECONDS
    assert links.period == period + 8
    assert storage.signed == 10


def test_a_clip_is_shown_with_its_frames_and_without_its_key() -> None:
    links = Links(cast(Storage, CountingStorage()))
    clip = links.clip("ab", Clip(section=1, artifact=ARTIFACT))
    assert (clip.section, clip.first_frame, clip.num_frames, clip.init_bytes) == (1, 36, 36, 4)
    assert "name=ab-section-1.mp4" in clip.url
    assert not hasattr(clip, "key")
