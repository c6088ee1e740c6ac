"""The gateway's API as Python calls.

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit(Path("photo.png"), "The girl dances.", seconds=5)
        for event in client.events(job.id):
            print(event.type, event.data)
        client.fetch(job.id, Path("out.mp4"))

Everything is tried again when the service is away. A submission carries an `Idempotency-Key`, so
that trying again cannot make a second job.

    ClientError
    +-- RequestRefused       the service understood and said no; carries its problem document
    +-- ServiceUnavailable   no answer, or none that helps, after all tries
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from pydantic import ValidationError

from service.client.sse import parse_events
from service.contract.views import EventView, JobView, ProblemView, VideoLink

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
TERMINAL_EVENTS = frozenset({"completed", "failed", "cancelled"})
_AWAY = frozenset({502, 503, 504})


class ClientError(Exception):
    """Base of everything the client raises on purpose."""


class RequestRefused(ClientError):  # noqa: N818 - reads as what it is at the raise site
    """The service understood the request and refused it."""

    def __init__(self, problem: ProblemView) -> None:
        reasons = [f"{error.pointer}: {error.detail}" for error in problem.errors or []]
        super().__init__("; ".join([problem.title, *(reasons or [problem.detail])]))
        self.problem = problem


class ServiceUnavailable(ClientError):  # noqa: N818
    """The service gave no answer, or none that helps."""


class Client:
    """A connection to one gateway. Not for use by several threads at once."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retry_seconds: tuple[float, ...] = RETRY_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Open a client.

        Args:
            base_url: Where the gateway is.
            api_key: The tenant's key; a service without keys needs none.
            timeout: Seconds without any byte before a try is given up.
            retry_seconds: Pauses between tries; one try more than pauses.
            transport: How requests to the gateway travel; None is the network.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=base_url, headers=headers, timeout=timeout, transport=transport
        )
        # Signed links belong to whoever holds them: the API key must not travel along.
        self._links = httpx.Client(timeout=timeout, follow_redirects=True)
        self._retry_seconds = retry_seconds

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._links.close()

    def submit(
        self,
        image: Path | bytes,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> JobView:
        """Submit a job.

        Args:
            image: A PNG, JPEG or WebP file, or its bytes.
            prompt: What should happen in the video.
            idempotency_key: The same within a day gives the same job; drawn if not given.
            **fields: Other request fields (`JobRequest`); None is left out.

        Raises:
            RequestRefused: The request is not acceptable.
            ServiceUnavailable: The service cannot be reached or cannot accept now.
        """
        body = image.read_bytes() if isinstance(image, Path) else image
        request = {"prompt": prompt, **fields}
        form = {name: _text(value) for name, value in request.items() if value is not None}
        files = {"image": ("image", body, "application/octet-stream")}
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        answer = self._request("POST", "/jobs", headers, data=form, files=files)
        return JobView.model_validate_json(answer.content)

    def get(self, job_id: str) -> JobView:
        """The job as it is now."""
        return JobView.model_validate_json(self._read(f"/jobs/{job_id}").content)

    def cancel(self, job_id: str) -> JobView:
        """Ask for a cancellation; the job is `cancelling` until the workers have stopped."""
        return JobView.model_validate_json(self._request("POST", f"/jobs/{job_id}/cancel").content)

    def pause(self, job_id: str) -> JobView:
        """Let no other section begin; those in work are finished."""
        return JobView.model_validate_json(self._request("POST", f"/jobs/{job_id}/pause").content)

    def resume(self, job_id: str) -> JobView:
        """Go on with a paused job where it was."""
        return JobView.model_validate_json(self._request("POST", f"/jobs/{job_id}/resume").content)

    def video(self, job_id: str) -> VideoLink:
        """A fresh link to the finished video."""
        headers = {"Accept": "application/json"}
        answer = self._read(f"/jobs/{job_id}/video", headers=headers)
        return VideoLink.model_validate_json(answer.content)

    def fetch(self, job_id: str, path: Path) -> VideoLink:
        """Download the finished video; the file appears whole, with the right hash, or not at all.

        Raises:
            RequestRefused: There is no video (yet).
            ServiceUnavailable: The bytes could not be had.
        """
        link = self.video(job_id)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with partial.open("xb") as file:
                digest = hashlib.sha256()
                for chunk in self._download(link.url):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != link.sha256:
                raise ServiceUnavailable("the downloaded video is damaged; fetch it again")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return link

    def events(self, job_id: str, after: int | None = None) -> Iterator[EventView]:
        """A job's events until it ends, through lost connections.

        The first event of a call without `after` is a `snapshot` of the job. Events with a sequence
        come once and in order; steps are passed on as they come.

        Args:
            job_id: The job.
            after: Sequence of the last event already known.

        Raises:
            ServiceUnavailable: The connection could not be had again.
        """
        last = after
        while True:
            for event in self._stream(job_id, last):
                if event.sequence is not None:
                    last = event.sequence
                yield event
                if _ends(event):
                    return
            # The connection ended without the job's end: ask again, from where it broke.
            if self._ended(job_id, last):
                return
            time.sleep(self._retry_seconds[0] if self._retry_seconds else 0.0)

    def _ended(self, job_id: str, last: int | None) -> bool:
        job = self.get(job_id)
        return job.status.terminal and last is not None and last >= job.last_sequence

    def _stream(self, job_id: str, after: int | None) -> Iterator[EventView]:
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        try:
            with self._http.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    _checked(answer)
                    return
                for event in parse_events(answer.iter_lines()):
                    yield EventView.model_validate_json(event.data)
        except (httpx.TransportError, ServiceUnavailable):
            # `events` reads the job next, with pauses, before it connects again.
            return

    def _download(self, url: str) -> Iterator[bytes]:
        try:
            with self._links.stream("GET", url) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise ServiceUnavailable(f"the storage answered {answer.status_code}")
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise ServiceUnavailable(_reason(error)) from error

    def _read(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return self._request("GET", path, headers)

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> httpx.Response:
        """A request that may be repeated."""
        pauses = iter(self._retry_seconds)
        while True:
            try:
                return _checked(self._http.request(method, path, headers=headers, **content))
            except (httpx.TransportError, ServiceUnavailable) as error:
                pause = next(pauses, None)
                if pause is None:
                    raise ServiceUnavailable(_reason(error)) from error
                time.sleep(pause)


def _text(value: Any) -> str:
    """A form's field; what has parts is JSON in it."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)


def _ends(event: EventView) -> bool:
    if event.type == "snapshot":
        return JobView.model_validate(event.data).status.terminal
    return event.type in TERMINAL_EVENTS


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success or answer.is_redirect:
        return answer
    try:
        problem = ProblemView.model_validate_json(answer.content)
    except ValidationError:
        raise ServiceUnavailable(f"the answer was {answer.status_code}") from None
    if answer.status_code in _AWAY:
        raise ServiceUnavailable(f"{problem.title}: {problem.detail}")
    raise RequestRefused(problem)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
