"""The gateway's API as Python calls to be awaited; any event loop that httpx knows.

async with AsyncClient("http://127.0.0.1:8000") as client:
    job = await client.submit(Path("photo.png"), "The girl dances.", seconds=5)
    async for event in client.events(job.id):
        print(event.type, event.data)
    await client.fetch(job.id, Path("out.mp4"))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, closing
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import anyio
import httpx

from service.client.calls import RETRY_SECONDS, Calls
from service.client.client import authorization
from service.client.talk import Ask, Call, Listen, Rest, Talk, Tell, Wish
from service.contract.job import JobStatus
from service.contract.views import DryRunView, EventView, JobView, VideoLink

T = TypeVar("T")


class AsyncClient:
    """A connection to one gateway, for any number of tasks. The calls are those of `Client`."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retry_seconds: tuple[float, ...] = RETRY_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Open a client. The arguments are those of `Client`."""
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=authorization(api_key), timeout=timeout, transport=transport
        )
        self._links = httpx.AsyncClient(timeout=timeout, follow_redirects=True)
        self._calls = Calls(retry_seconds)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        await self._links.aclose()

    async def submit(
        self,
        image: Path | bytes | None,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> JobView:
        """Submit a job, see `Client.submit`."""
        return await self._result(self._calls.submit(image, prompt, idempotency_key, fields))

    async def dry_run(self, image: Path | bytes | None, prompt: str, **fields: Any) -> DryRunView:
        """What would come of a submission, see `Client.dry_run`."""
        return await self._result(self._calls.dry_run(image, prompt, fields))

    async def get(self, job_id: str) -> JobView:
        """The job as it is now."""
        return await self._result(self._calls.get(job_id))

    async def wait(self, job_id: str, seconds: float | None = None) -> JobView:
        """The job when it has ended, see `Client.wait`."""
        return await self._result(self._calls.wait(job_id, seconds))

    def list(
        self,
        *statuses: JobStatus | str,
        limit: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[JobView]:
        """The tenant's jobs, newest first, see `Client.list`."""
        return self._told(Talk(self._calls.list(statuses, limit, metadata)))

    async def delete(self, job_id: str) -> None:
        """Delete a job that has ended, see `Client.delete`."""
        await self._result(self._calls.delete(job_id))

    async def cancel(self, job_id: str) -> JobView:
        """Ask for a cancellation, see `Client.cancel`."""
        return await self._result(self._calls.control(job_id, "cancel"))

    async def pause(self, job_id: str) -> JobView:
        """Let no other section begin; those in work are finished."""
        return await self._result(self._calls.control(job_id, "pause"))

    async def resume(self, job_id: str) -> JobView:
        """Go on with a paused job where it was."""
        return await self._result(self._calls.control(job_id, "resume"))

    async def video(self, job_id: str) -> VideoLink:
        """A fresh link to the finished video."""
        return await self._result(self._calls.video(job_id))

    async def fetch(self, job_id: str, path: Path) -> VideoLink:
        """Download the finished video, see `Client.fetch`."""
        return await self._result(self._calls.fetch(job_id, path))

    def events(self, job_id: str, after: int | None = None) -> AsyncGenerator[EventView]:
        """A job's events until it ends, see `Client.events`."""
        return self._told(Talk(self._calls.events(job_id, after)))

    async def _result(self, call: Call[T]) -> T:
        talk = Talk(call)
        async with aclosing(self._told(talk)) as told:
            async for _ in told:
                pass
        return talk.result

    async def _told(self, talk: Talk[Any]) -> AsyncGenerator[Any]:
        """Do what a call wants done; what it tells."""
        line = _Line(self._http, self._links)
        async with aclosing(line):
            with closing(talk.wishes()) as wishes:
                for wish in wishes:
                    if isinstance(wish, Tell):
                        yield wish.value
                        continue
                    with talk.doing():
                        talk.done(await line.do(wish))


class _Line:
    """Does what a call wants, and closes what it left open."""

    def __init__(self, http: httpx.AsyncClient, links: httpx.AsyncClient) -> None:
        self._http = http
        self._links = links
        self._open: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def do(self, wish: Wish) -> Any:
        if isinstance(wish, Rest):
            return await anyio.sleep(wish.seconds)
        if isinstance(wish, Ask):
            return await self._send(wish)
        return None if self._pieces is None else await anext(self._pieces, None)

    async def aclose(self) -> None:
        if self._open is not None:
            await self._open.aclose()

    async def _send(self, ask: Ask) -> httpx.Response:
        await self.aclose()
        http = self._links if ask.signed_link else self._http
        request = http.build_request(ask.method, ask.url, headers=ask.headers, **ask.content)
        self._open = await http.send(request, stream=True)
        if isinstance(ask, Listen) and self._open.status_code == httpx.codes.OK:
            self._pieces = self._open.aiter_bytes()
        else:
            await self._open.aread()
        return self._open
