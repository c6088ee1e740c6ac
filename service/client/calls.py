"""What each call asks of the gateway and what it makes of the answers, see `service.client.talk`.

Everything is tried again while the service is away, because everything may be: a submission carries
an `Idempotency-Key`, and what a repeated cancel is told when the first one had worked is taken for
the success that it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from service.client.errors import (
    RequestRefused,
    ServiceUnavailable,
    TryLater,
    checked,
    unreachable,
)
from service.client.sse import EventReader
from service.client.talk import Ask, Call, Listen, More, Rest, Tell
from service.contract.events import TERMINAL
from service.contract.job import JobStatus
from service.contract.views import DryRunView, EventView, JobListView, JobView, VideoLink

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
MOST_A_PAGE = 100
LONGEST_WAIT_SECONDS = 30.0
"""A service that asks for more patience than this is refusing."""

MOST_SECONDS_AN_ANSWER = 60
"""A gateway waits no longer for a job before it answers."""
SECONDS_OF_PATIENCE = 30.0
"""Beyond that, without any byte."""

_JSON = {"Accept": "application/json"}


class Calls:
    """The calls of one client.

    Args:
        retry_seconds: Pauses between tries; one try more than pauses.
    """

    def __init__(self, retry_seconds: tuple[float, ...]) -> None:
        self._pauses = retry_seconds

    def submit(
        self, image: Path | bytes | None, prompt: str, key: str | None, fields: Mapping[str, Any]
    ) -> Call[JobView]:
        """Submit a job, with a picture or without."""
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        form = {"files": _form(image, prompt, fields)}
        answer = yield from self._ask(Ask("POST", "/jobs", headers, form))
        return JobView.model_validate_json(answer.content)

    def dry_run(
        self, image: Path | bytes | None, prompt: str, fields: Mapping[str, Any]
    ) -> Call[DryRunView]:
        """What would come of a submission."""
        form = {"files": _form(image, prompt, fields), "params": {"dry_run": "true"}}
        answer = yield from self._ask(Ask("POST", "/jobs", content=form))
        return DryRunView.model_validate_json(answer.content)

    def get(self, job_id: str) -> Call[JobView]:
        """The job as it is now."""
        answer = yield from self._ask(Ask("GET", f"/jobs/{job_id}"))
        return JobView.model_validate_json(answer.content)

    def wait(self, job_id: str, seconds: float | None) -> Call[JobView]:
        """The job when it has ended, or as it is when time is up."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = MOST_SECONDS_AN_ANSWER if end is None else math.ceil(end - time.monotonic())
            wait = max(0, min(left, MOST_SECONDS_AN_ANSWER))
            patient = {"timeout": wait + SECONDS_OF_PATIENCE}
            ask = Ask("GET", f"/jobs/{job_id}", {"Prefer": f"wait={wait}"}, patient)
            job = JobView.model_validate_json((yield from self._ask(ask)).content)
            if job.status.terminal or (end is not None and time.monotonic() >= end):
                return job
            # A gateway that is told to stop answers at once; the next one is given a moment.
            yield Rest(self._pauses[0] if self._pauses else 0.0)

    def control(self, job_id: str, action: str) -> Call[JobView]:
        """Cancel, pause or resume a job."""
        try:
            answer = yield from self._ask(Ask("POST", f"/jobs/{job_id}/{action}"))
        except RequestRefused as refusal:
            if action != "cancel" or not _worked_before(refusal, "job_finished"):
                raise
            job = yield from self.get(job_id)
            if job.status is not JobStatus.CANCELLED:
                raise
            return job
        return JobView.model_validate_json(answer.content)

    def list(
        self,
        statuses: Sequence[JobStatus | str],
        limit: int | None,
        metadata: Mapping[str, str] | None,
    ) -> Call[None]:
        """Tells jobs, newest first, page after page."""
        left = limit
        query: dict[str, Any] = {"status": [str(status) for status in statuses]}
        query |= {f"metadata[{name}]": value for name, value in (metadata or {}).items()}
        while left is None or left > 0:
            query["limit"] = MOST_A_PAGE if left is None else min(left, MOST_A_PAGE)
            asked = {"params": query}
            answer = yield from self._ask(Ask("GET", "/jobs", content=asked))
            page = JobListView.model_validate_json(answer.content)
            for job in page.data:
                yield Tell(job)
            left = None if left is None else left - len(page.data)
            if page.next is None:
                return
            query["after"] = page.next

    def delete(self, job_id: str) -> Call[None]:
        """Delete a job that has ended."""
        try:
            yield from self._ask(Ask("DELETE", f"/jobs/{job_id}"))
        except RequestRefused as refusal:
            if not _worked_before(refusal, "job_not_found"):
                raise

    def video(self, job_id: str) -> Call[VideoLink]:
        """A fresh link to the finished video."""
        answer = yield from self._ask(Ask("GET", f"/jobs/{job_id}/video", _JSON))
        return VideoLink.model_validate_json(answer.content)

    def fetch(self, job_id: str, path: Path) -> Call[VideoLink]:
        """Download the finished video; it appears whole or not at all."""
        link = yield from self.video(job_id)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            # A write of some kilobytes goes to the system's memory: not worth a thread in async.
            with partial.open("xb") as file:
                digest = yield from _download(link.url, file.write)
            if digest != link.sha256:
                raise ServiceUnavailable("the downloaded video is damaged; fetch it again")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return link

    def events(self, job_id: str, after: int | None) -> Call[None]:
        """Tells a job's events until it ends, through lost connections."""
        last = after
        while True:
            last, ended = yield from self._connection(job_id, last)
            if ended:
                return
            # The connection ended without the job's end: ask again, from where it broke.
            job = yield from self.get(job_id)
            if job.status.terminal and last is not None and last >= job.last_sequence:
                return
            yield Rest(self._pauses[0] if self._pauses else 0.0)

    def _connection(self, job_id: str, last: int | None) -> Call[tuple[int | None, bool]]:
        """Tell what comes on one connection; the last sequence known, whether the job ended."""
        headers = {"Accept": "text/event-stream"}
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        # Where it cannot be had, `events` reads the job next, with pauses, and says what is wrong.
        with suppress(httpx.TransportError, TryLater):
            answer = yield Listen("GET", f"/jobs/{job_id}/events", headers)
            if answer.status_code != httpx.codes.OK:
                checked(answer)
                return last, False
            reader = EventReader()
            while (piece := (yield More())) is not None:
                for found in reader.feed(piece):
                    event = EventView.model_validate_json(found.data)
                    last = last if event.sequence is None else event.sequence
                    yield Tell(event)
                    if _ends(event):
                        return last, True
        return last, False

    def _ask(self, ask: Ask) -> Call[httpx.Response]:
        """A request that may be repeated."""
        for tries, pause in enumerate((*self._pauses, None)):
            try:
                return checked((yield ask))
            except httpx.TransportError as error:
                failure = unreachable(error)
            except TryLater as error:
                failure = error
            except RequestRefused as refusal:
                refusal.repeated = tries > 0
                raise
            if pause is None or (failure.after or 0.0) > LONGEST_WAIT_SECONDS:
                break
            yield Rest(max(pause, failure.after or 0.0))
        raise failure.final from failure


def _worked_before(refusal: RequestRefused, code: str) -> bool:
    """Whether it only says that an earlier try, whose answer got lost, had worked."""
    return refusal.repeated and refusal.problem.code == code


def _download(url: str, write: Callable[[bytes], Any]) -> Call[str]:
    """Write what a signed link leads to; returns its SHA-256."""
    digest = hashlib.sha256()
    try:
        answer = yield Listen("GET", url)
        if answer.status_code != httpx.codes.OK:
            raise ServiceUnavailable(f"the storage answered {answer.status_code}")
        while (piece := (yield More())) is not None:
            digest.update(piece)
            write(piece)
    except httpx.TransportError as error:
        raise unreachable(error).final from error
    return digest.hexdigest()


def _form(image: Path | bytes | None, prompt: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A submission's form, as httpx takes its parts."""
    body = image.read_bytes() if isinstance(image, Path) else image
    request = {"prompt": prompt, **fields}
    form = {name: _text(value) for name, value in request.items() if value is not None}
    # Fields travel as files too, without a name: a form without files is encoded otherwise.
    parts: dict[str, Any] = {name: (None, value) for name, value in form.items()}
    if body is not None:
        parts["image"] = ("image", body, "application/octet-stream")
    return parts


def _text(value: Any) -> str:
    """A form's field; what has parts is JSON in it."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)


def _ends(event: EventView) -> bool:
    if event.type == "snapshot":
        return JobView.model_validate(event.data).status.terminal
    return event.type in TERMINAL
