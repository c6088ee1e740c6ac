"""`framepack-jobs`: submit pictures, watch jobs, fetch videos.

Results go to standard output (one line, or JSON with --json), progress and errors to standard
error. Exit status: 0 done; 1 the job failed or was cancelled; 2 the request was refused or the
command line is wrong; 3 the service cannot be reached; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel

from service.client.client import Client, RequestRefused, ServiceUnavailable
from service.client.progress import ProgressLine
from service.contract.job import JobStatus
from service.contract.views import EventView, JobView

DONE, JOB_FAILED, REFUSED, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130
_REQUEST_FIELDS = (
    ("preset", str, "model to use"),
    ("seconds", float, "length of the video"),
    ("steps", int, "denoising steps of a section"),
    ("seed", int, "for the same video again"),
    ("order", str, "sampling order"),
    ("schedule", str, "packing schedule"),
    ("guidance-scale", float, "distilled guidance"),
    ("cfg-scale", float, "classifier-free guidance"),
    ("negative-prompt", str, "what should not happen; needs --cfg-scale over 1"),
    ("ranking", str, "of history: time, similarity or hybrid"),
    ("history-noise", float, "strength of noise in history, 0 to 1"),
    ("history-noise-mode", str, "scaled or constant"),
    ("history-guidance", float, "over 1 keeps closer to history"),
    ("attention", str, "of the frames being made: full or causal"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[Client, argparse.Namespace], int] = options.run
    try:
        with Client(options.url, api_key=options.api_key) as client:
            return command(client, options)
    except RequestRefused as error:
        return _complain(error, REFUSED, error.problem if options.json else None)
    except ServiceUnavailable as error:
        return _complain(f"the service at {options.url} is unavailable: {error}", UNAVAILABLE)
    except OSError as error:
        return _complain(error, REFUSED)
    except KeyboardInterrupt:
        return _complain("interrupted; the job goes on", INTERRUPTED)


def _submit(client: Client, options: argparse.Namespace) -> int:
    names = [name.replace("-", "_") for name, _, _ in _REQUEST_FIELDS]
    fields = {name: getattr(options, name) for name in names}
    fields["later_prompts"] = options.prompt_at or None
    job = client.submit(options.image, options.prompt, **fields)
    if options.output is None and not options.watch:
        return _show(job, options)
    if not options.json:
        _write(sys.stderr, f"job {job.id}")
    return _follow(client, job.id, options)


def _watch(client: Client, options: argparse.Namespace) -> int:
    return _follow(client, options.job, options)


def _get(client: Client, options: argparse.Namespace) -> int:
    return _show(client.get(options.job), options)


def _cancel(client: Client, options: argparse.Namespace) -> int:
    return _show(client.cancel(options.job), options)


def _pause(client: Client, options: argparse.Namespace) -> int:
    return _show(client.pause(options.job), options)


def _resume(client: Client, options: argparse.Namespace) -> int:
    return _show(client.resume(options.job), options)


def _fetch(client: Client, options: argparse.Namespace) -> int:
    path = options.output or Path(f"{options.job}.mp4")
    link = client.fetch(options.job, path)
    _write(sys.stdout, link.model_dump_json() if options.json else str(path))
    return DONE


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
        return _complain(reason, JOB_FAILED)
    if options.output is not None:
        client.fetch(job_id, options.output)
        _write(sys.stderr if options.json else sys.stdout, str(options.output))
    return DONE


def _tell(event: EventView, line: ProgressLine, options: argparse.Namespace) -> None:
    if options.json:
        _write(sys.stdout, event.model_dump_json(exclude_none=True))
    else:
        line.show(event)


def _show(job: JobView, options: argparse.Namespace) -> int:
    text = f"{job.id} {job.status.value} {job.progress.percent}%"
    _write(sys.stdout, job.model_dump_json() if options.json else text)
    return DONE


def _complain(reason: object, status: int, details: BaseModel | None = None) -> int:
    if details is not None:
        _write(sys.stdout, details.model_dump_json(exclude_none=True))
    _write(sys.stderr, f"framepack-jobs: {reason}")
    return status


def _write(out: TextIO, text: str) -> None:
    out.write(f"{text}\n")
    out.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="framepack-jobs", description=__doc__.split("\n")[0])
    default_url = os.environ.get("FRAMEPACK_URL", "http://127.0.0.1:8000")
    parser.add_argument("--url", default=default_url, help="the gateway (FRAMEPACK_URL)")
    key = os.environ.get("FRAMEPACK_API_KEY")
    parser.add_argument("--api-key", default=key, help="better in FRAMEPACK_API_KEY")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    submit = _command(commands, "submit", _submit, "submit a job")
    submit.add_argument("image", type=Path, metavar="IMAGE", help="PNG, JPEG or WebP")
    submit.add_argument("prompt", metavar="PROMPT", help="what should happen")
    submit.add_argument("--watch", action="store_true", help="follow the job until it ends")
    submit.add_argument("-o", "--output", type=Path, help="follow, then save the video here")
    for name, kind, text in _REQUEST_FIELDS:
        submit.add_argument(f"--{name}", type=kind, help=text)
    submit.add_argument(
        "--prompt-at",
        type=_later_prompt,
        action="append",
        metavar="SECONDS:PROMPT",
        help="a prompt that takes over from there on; repeatable",
    )

    watch = _command(commands, "watch", _watch, "follow a job until it ends", job=True)
    watch.add_argument("-o", "--output", type=Path, help="save the video here at the end")
    _command(commands, "get", _get, "show a job", job=True)
    _command(commands, "cancel", _cancel, "cancel a job", job=True)
    _command(commands, "pause", _pause, "let no other section of a job begin", job=True)
    _command(commands, "resume", _resume, "go on with a paused job", job=True)
    fetch = _command(commands, "fetch", _fetch, "download a finished video", job=True)
    fetch.add_argument("-o", "--output", type=Path, help="default: JOB.mp4")
    return parser


def _later_prompt(text: str) -> dict[str, Any]:
    seconds, colon, prompt = text.partition(":")
    try:
        return {"seconds": float(seconds if colon else ""), "prompt": prompt}
    except ValueError:
        raise argparse.ArgumentTypeError(f"write SECONDS:PROMPT, not {text!r}") from None


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[Client, argparse.Namespace], int],
    text: str,
    *,
    job: bool = False,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    if job:
        parser.add_argument("job", metavar="JOB", help="the job's id")
    return parser


if __name__ == "__main__":
    sys.exit(main())
