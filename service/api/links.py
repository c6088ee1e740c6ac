"""Signed links to clips and videos, made when somebody reads and expiring soon after.

A link is reused for half of its life: signing for S3 costs about a millisecond, a long job has a
hundred clips, and a job that is polled should not look changed because its links were signed anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from service.contract.job import Artifact, Clip
from service.contract.storage.base import Storage
from service.contract.views import ClipView

LINK_SECONDS = 15 * 60
_CACHED_LINKS = 4096


@dataclass(frozen=True)
class SignedLink:
    """A URL that needs no credentials until it expires."""

    url: str
    expires_at: datetime


class Links:
    """Signs links for one storage."""

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._clock = clock
        self._signed = lru_cache(maxsize=_CACHED_LINKS)(self._sign)

    @property
    def period(self) -> int:
        """Changes whenever links are signed anew."""
        return int(self._clock() // (LINK_SECONDS / 2))

    def to(self, artifact: Artifact, filename: str) -> SignedLink:
        """A link to an artifact, which a browser would save under the file name."""
        return self._signed(self.period, artifact.key, artifact.content_type, filename)

    def clip(self, job_id: str, clip: Clip) -> ClipView:
        """A clip with its link."""
        artifact = clip.artifact
        link = self.to(artifact, f"{job_id}-section-{clip.section}.mp4")
        return ClipView(
            section=clip.section,
            first_frame=artifact.first_frame or 0,
            num_frames=artifact.num_frames or 0,
            init_bytes=artifact.init_bytes,
            content_type=artifact.content_type,
            size_bytes=artifact.size_bytes,
            sha256=artifact.sha256,
            url=link.url,
            expires_at=link.expires_at,
        )

    def _sign(self, period: int, key: str, content_type: str, filename: str) -> SignedLink:
        now = self._clock()
        url = self._storage.signed_url(
            key, expires_in=LINK_SECONDS, content_type=content_type, filename=filename
        )
        return SignedLink(url, datetime.fromtimestamp(int(now) + LINK_SECONDS, UTC))
