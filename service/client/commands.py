"""What the commands of `framepack-jobs` do, see `service.client.cli` for how they are called."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel

from service.client.client import Client
from service.client.progress import ProgressLine
from service.contract.job import JobStatus
from service.contract.views import DryRunView, EventView, JobView

DONE, JOB_FAILED, REFUSED, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130

PROMPT_CHARACTERS = 60

REQUEST_FIELDS = (
    ("preset", str, "model to use"),
    ("seconds", float, "length of the video"),
    ("steps", int, "denoising steps of a section"),
    ("seed", int, "for the same video again"),
    ("order", str, "sampling order"),
    ("schedule", str, "packing schedule"),
    ("size", str, "WIDTHxHEIGHT; the nearest there is (the picture's)"),
    ("guidance-scale", float, "distilled guidance"),
    ("cfg-scale", float, "classifier-free guidance"),
    ("negative-prompt", str, "what should not happen; needs --cfg-scale over 1"),
    ("ranking", str, "of history: time, similarity or hybrid"),
    ("history-noise", float, "strength of noise in history, 0 to 1"),
    ("history-noise-mode", str, "scaled or constant"),
    ("history-guidance", float, "over 1 keeps closer to history"),
    ("attention", str, "of the frames being made: full or causal"),
    ("quality", str, "exact, standard or draft: the others skip denoising work"),
    ("priority", str, "normal or low, which waits until nothing else does"),
    ("ttl-seconds", int, "fail if no worker has begun it by then"),
    ("timeout-seconds", int, "fail when workers have spent this long on it"),
    ("retention-seconds", int, "keep job and video for so long after its end"),
)
"""Options of `submit` that are request fields: name, type, meaning."""


def submit(client: Client, options: argparse.Namespace) -> int:
    """Submit a job; follow it if that was asked for."""
    fields = _fields(options)
    if options.dry_run:
        return _show_forecast(client.dry_run(options.image, options.prompt, **fields), options)
    key = options.idempotency_key
    job = client.submit(options.image, options.prompt, idempotency_key=key, **fields)
    if options.wait is not None:
        return _show_end(client.wait(job.id, options.wait), options)
    if options.output is None and not options.watch:
        return _show(job, options)
    if not options.json:
        write(sys.stderr, f"job {job.id}")
    return _follow(client, job.id, options)


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    """The request's fields that the command line gave."""
    names = [name.replace("-", "_") for name, _, _ in REQUEST_FIELDS]
    fields = {name: getattr(options, name) for name in names}
    fields["later_prompts"] = options.prompt_at or None
    fields["metadata"] = dict(options.metadata or ()) or None
    if options.webhook is not None:
        events = {"events": options.webhook_event} if options.webhook_event else {}
        fields["webhook"] = {"url": options.webhook, **events}
    return fields


def _show_forecast(found: DryRunView, options: argparse.Namespace) -> int:
    plan, estimate = found.plan, found.estimate
    sections = "1 section" if plan.num_sections == 1 else f"{plan.num_sections} sections"
    text = (
        f"{sections}, {plan.duration_seconds:g} s of {plan.width}x{plan.height}; "
        f"about {estimate.gpu_seconds:g} s of work, finished in {estimate.eta_seconds:g} s"
    )
    write(sys.stdout, found.model_dump_json() if options.json else text)
    return DONE


def watch(client: Client, options: argparse.Namespace) -> int:
    """Follow a job."""
    return _follow(client, options.job, options)


def get(client: Client, options: argparse.Namespace) -> int:
    """Show a job; with a wait, as it ended."""
    if options.wait is not None:
        return _show_end(client.wait(options.job, options.wait), options)
    return _show(client.get(options.job), options)


def list_jobs(client: Client, options: argparse.Namespace) -> int:
    """Show jobs, newest first."""
    metadata = dict(options.metadata or ())
    for job in client.list(*options.status or (), limit=options.limit or None, metadata=metadata):
        _show(job, options, f"  {job.created_at:%Y-%m-%d %H:%M}  {_short(job.input.prompt)}")
    return DONE


def _short(prompt: str) -> str:
    """A prompt that leaves a line of a list a line."""
    words = " ".join(prompt.split())
    return words if len(words) <= PROMPT_CHARACTERS else f"{words[: PROMPT_CHARACTERS - 1]}…"


def delete(client: Client, options: argparse.Namespace) -> int:
    """Delete a job that has ended."""
    client.delete(options.job)
    gone = {"id": options.job, "deleted": True}
    write(sys.stdout, json.dumps(gone) if options.json else f"{options.job} deleted")
    return DONE


def cancel(client: Client, options: argparse.Namespace) -> int:
    """Cancel a job."""
    return _show(client.cancel(options.job), options)


def pause(client: Client, options: argparse.Namespace) -> int:
    """Pause a job."""
    return _show(client.pause(options.job), options)


def resume(client: Client, options: argparse.Namespace) -> int:
    """Resume a job."""
    return _show(client.resume(options.job), options)


def fetch(client: Client, options: argparse.Namespace) -> int:
    """Download a finished video."""
    path = options.output or Path(f"{options.job}.mp4")
    link = client.fetch(options.job, path)
    write(sys.stdout, link.model_dump_json() if options.json else str(path))
    return DONE


def complain(reason: object, status: int, details: BaseModel | None = None) -> int:
    """Say what went wrong; with details also on standard output, for programs."""
    if details is not None:
        write(sys.stdout, details.model_dump_json(exclude_none=True))
    write(sys.stderr, f"framepack-jobs: {reason}")
    return status


def write(out: TextIO, text: str) -> None:
    """A line, at once: whoever reads a pipe should not wait."""
    out.write(f"{text}\n")
    out.flush()


def _follow(client: Client, job_id: str, options: argparse.Namespace) -> int:
    """Show a job's events until it ends, then fetch its video if that was asked for."""
    line = ProgressLine(sys.stderr)
    try:
        for event in client.events(job_id):
            _tell(event, line, options)
    finally:
        line.close()
    job = client.get(job_id)
    if job.status is not JobStatus.COMPLETED:
        reason = job.error.detail if job.error else f"the job was {job.status.value}"
        return complain(reason, JOB_FAILED)
    if options.output is not None:
        client.fetch(job_id, options.output)
        write(sys.stderr if options.json else sys.stdout, str(options.output))
    return DONE


def _tell(event: EventView, line: ProgressLine, options: argparse.Namespace) -> None:
    if options.json:
        write(sys.stdout, event.model_dump_json(exclude_none=True))
    else:
        line.show(event)


def _show_end(job: JobView, options: argparse.Namespace) -> int:
    """Show a job that was waited for; its failure is the command's."""
    _show(job, options)
    failed = job.status.terminal and job.status is not JobStatus.COMPLETED
    return JOB_FAILED if failed else DONE


def _show(job: JobView, options: argparse.Namespace, more: str = "") -> int:
    text = f"{job.id} {job.status.value} {job.progress.percent}%{more}"
    write(sys.stdout, job.model_dump_json() if options.json else text)
    return DONE
