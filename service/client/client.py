"""The gateway's API as Python calls that block.

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit(Path("photo.png"), "The girl dances.", seconds=5)
        for event in client.events(job.id):
            print(event.type, event.data)
        client.fetch(job.id, Path("out.mp4"))

`service.client.async_client.AsyncClient` is the same with await. What the calls do is in
`service.client.calls`, once; here is how a blocking program does it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from service.client.calls import RETRY_SECONDS, Calls
from service.client.talk import Ask, Call, Listen, Rest, Talk, Tell, Wish
from service.contract.job import JobStatus
from service.contract.views import DryRunView, EventView, JobView, VideoLink

T = TypeVar("T")


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
        self._http = httpx.Client(
            base_url=base_url, headers=authorization(api_key), timeout=timeout, transport=transport
        )
        # Signed links belong to whoever holds them: the API key must not travel along.
        self._links = httpx.Client(timeout=timeout, follow_redirects=True)
        self._calls = Calls(retry_seconds)

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
        image: Path | bytes | None,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> JobView:
        """Submit a job.

        Args:
            image: A PNG, JPEG or WebP file, or its bytes; None makes a video from the prompt alone.
            prompt: What should happen in the video.
            idempotency_key: The same within a day gives the same job; drawn if not given.
            **fields: Other request fields (`JobRequest`); None is left out.

        Raises:
            RequestRefused: The request is not acceptable.
            ServiceUnavailable: The service cannot be reached or cannot accept now.
        """
        return self._result(self._calls.submit(image, prompt, idempotency_key, fields))

    def dry_run(self, image: Path | bytes | None, prompt: str, **fields: Any) -> DryRunView:
        """What would come of a submission: plan, work, wait. Arguments as those of `submit`.

        Raises:
            RequestRefused: The request is not acceptable.
        """
        return self._result(self._calls.dry_run(image, prompt, fields))

    def get(self, job_id: str) -> JobView:
        """The job as it is now."""
        return self._result(self._calls.get(job_id))

    def wait(self, job_id: str, seconds: float | None = None) -> JobView:
        """The job when it has ended, or as it is after so many seconds; None waits for ever."""
        return self._result(self._calls.wait(job_id, seconds))

    def list(
        self,
        *statuses: JobStatus | str,
        limit: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Iterator[JobView]:
        """The tenant's jobs, newest first, page after page as they are read.

        Args:
            *statuses: Only these; none means all.
            limit: The most; None is all of them.
            metadata: Only jobs that have all of this.
        """
        return self._told(Talk(self._calls.list(statuses, limit, metadata)))

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, and everything stored of it.

        Raises:
            RequestRefused: There is no such job, or it has not ended.
        """
        self._result(self._calls.delete(job_id))

    def cancel(self, job_id: str) -> JobView:
        """Ask for a cancellation; the job is `cancelling` until the workers have stopped."""
        return self._result(self._calls.control(job_id, "cancel"))

    def pause(self, job_id: str) -> JobView:
        """Let no other section begin; those in work are finished."""
        return self._result(self._calls.control(job_id, "pause"))

    def resume(self, job_id: str) -> JobView:
        """Go on with a paused job where it was."""
        return self._result(self._calls.control(job_id, "resume"))

    def video(self, job_id: str) -> VideoLink:
        """A fresh link to the finished video."""
        return self._result(self._calls.video(job_id))

    def fetch(self, job_id: str, path: Path) -> VideoLink:
        """Download the finished video; the file appears whole, with the right hash, or not at all.

        Raises:
            RequestRefused: There is no video (yet).
            ServiceUnavailable: The bytes could not be had.
        """
        return self._result(self._calls.fetch(job_id, path))

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
        return self._told(Talk(self._calls.events(job_id, after)))

    def _result(self, call: Call[T]) -> T:
        talk = Talk(call)
        for _ in self._told(talk):
            pass
        return talk.result

    def _told(self, talk: Talk[Any]) -> Iterator[Any]:
        """Do what a call wants done; what it tells."""
        with closing(_Line(self._http, self._links)) as line, closing(talk.wishes()) as wishes:
            for wish in wishes:
                if isinstance(wish, Tell):
                    yield wish.value
                    continue
                with talk.doing():
                    talk.done(line.do(wish))


class _Line:
    """Does what a call wants, and closes what it left open."""

    def __init__(self, http: httpx.Client, links: httpx.Client) -> None:
        self._http = http
        self._links = links
        self._open: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def do(self, wish: Wish) -> Any:
        if isinstance(wish, Rest):
            return time.sleep(wish.seconds)
        return self._send(wish) if isinstance(wish, Ask) else next(self._pieces, None)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()

    def _send(self, ask: Ask) -> httpx.Response:
        self.close()
        http = self._links if ask.signed_link else self._http
        request = http.build_request(ask.method, ask.url, headers=ask.headers, **ask.content)
        self._open = http.send(request, stream=True)
        if isinstance(ask, Listen) and self._open.status_code == httpx.codes.OK:
            self._pieces = self._open.iter_bytes()
        else:
            self._open.read()
        return self._open


def authorization(api_key: str | None) -> dict[str, str]:
    """The headers that say who asks."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
