"""`framepack-jobs`: submit pictures, watch jobs, fetch videos.

Results go to standard output (one line, or with --json one JSON document a line), progress and
errors to standard error. Exit status: 0 done; 1 the job failed or was cancelled; 2 the request was
refused or the command line is wrong; 3 the service cannot be reached; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from framepack.arguments import parse_arguments
from service.client import commands
from service.client.calls import RETRY_SECONDS
from service.client.client import Client
from service.client.commands import INTERRUPTED, REFUSED, REQUEST_FIELDS, UNAVAILABLE, complain
from service.client.errors import RequestRefused, ServiceUnavailable
from service.contract.job import JobStatus
from service.contract.views import ProblemView
from service.contract.webhook import WebhookEvent

_WAIT = "show it when it has ended, or after this long"

Command = Callable[[Client, argparse.Namespace], int]


def main(
    arguments: Sequence[str] | None = None, retry_seconds: tuple[float, ...] = RETRY_SECONDS
) -> int:
    """Run one command; returns the exit status."""
    options = parse_arguments(parser(), arguments)
    if options.command == "keys":
        status: int = options.run(options)
        return status
    command: Command | None = options.run
    if command is None:
        return _complete(options)
    try:
        with Client(options.url, api_key=options.api_key, retry_seconds=retry_seconds) as client:
            return command(client, options)
    except RequestRefused as error:
        return complain(error, REFUSED, error.problem if options.json else None)
    except ServiceUnavailable as error:
        reason = f"the service at {options.url} is unavailable: {error}"
        return complain(reason, UNAVAILABLE, _away(error) if options.json else None)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else error
        return complain(named, REFUSED)
    except KeyboardInterrupt:
        return complain("interrupted; the job goes on", INTERRUPTED)


def _away(error: ServiceUnavailable) -> ProblemView:
    """For programs, in the form of the service's own problems."""
    return ProblemView(
        type="about:blank",
        title="The service cannot be reached",
        status=503,
        detail=str(error),
        code="unavailable",
        retryable=True,
    )


def _complete(options: argparse.Namespace) -> int:
    """Print a shell's completion script."""
    try:
        import shtab
    except ImportError:
        return complain("install framepack-service[client] for completion", REFUSED)
    commands.write(sys.stdout, shtab.complete(parser(), shell=options.shell))
    return commands.DONE


def parser() -> argparse.ArgumentParser:
    """The command line."""
    assert __doc__ is not None
    made = argparse.ArgumentParser(
        prog="framepack-jobs",
        description=__doc__.partition("\n")[0],
        epilog=__doc__.rpartition("error. ")[2].replace("\n", " "),
    )
    default_url = os.environ.get("FRAMEPACK_URL", "http://127.0.0.1:8000")
    made.add_argument("--url", default=default_url, help="the gateway (FRAMEPACK_URL)")
    key = os.environ.get("FRAMEPACK_API_KEY")
    made.add_argument("--api-key", default=key, help="better in FRAMEPACK_API_KEY")
    found = made.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_submit(_command(found, "submit", commands.submit, "submit a job"))
    watch = _command(found, "watch", commands.watch, "follow a job until it ends", job=True)
    watch.add_argument("-o", "--output", type=Path, help="save the video here at the end")
    get = _command(found, "get", commands.get, "show a job", job=True)
    get.add_argument("--wait", type=float, metavar="SECONDS", help=_WAIT)
    listing = _command(found, "list", commands.list_jobs, "show jobs, newest first")
    names = [status.value for status in JobStatus]
    listing.add_argument("--status", action="append", choices=names, help="repeatable")
    _add_metadata(listing, "only jobs with this; repeatable, all must hold")
    listing.add_argument("--limit", type=int, default=20, help="default: 20; 0 shows all")
    _command(found, "delete", commands.delete, "delete a job that has ended", job=True)
    _command(found, "cancel", commands.cancel, "cancel a job", job=True)
    _command(found, "pause", commands.pause, "let no other section of a job begin", job=True)
    _command(found, "resume", commands.resume, "go on with a paused job", job=True)
    fetch = _command(found, "fetch", commands.fetch, "download a finished video", job=True)
    fetch.add_argument("-o", "--output", type=Path, help="default: JOB.mp4")
    _add_keys(found)
    complete = found.add_parser("completion", help="print a completion script for a shell")
    complete.add_argument("shell", choices=("bash", "zsh"))
    complete.set_defaults(run=None)
    return made


def _add_keys(found: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The operator's `python -m service keys`: it goes to the record, not to the gateway."""
    try:
        from service import keys
    except ImportError:  # a client's machine
        text = "for operators; needs framepack-service[contract]"
        alone = found.add_parser("keys", help=text)
        alone.set_defaults(run=lambda _: complain(text, REFUSED))
        alone.add_argument("words", nargs="*")
        return
    keys.add_commands(found)


def _add_submit(submit: argparse.ArgumentParser) -> None:
    submit.add_argument(
        "image",
        type=Path,
        nargs="?",
        metavar="IMAGE",
        help="PNG, JPEG or WebP; none: text-to-video",
    )
    submit.add_argument("prompt", metavar="PROMPT", help="what should happen")
    submit.add_argument("--wait", type=float, metavar="SECONDS", help=_WAIT)
    submit.add_argument("--watch", action="store_true", help="follow the job until it ends")
    submit.add_argument("-o", "--output", type=Path, help="follow, then save the video here")
    for name, kind, text in REQUEST_FIELDS:
        submit.add_argument(f"--{name}", type=kind, help=text)
    submit.add_argument(
        "--prompt-at",
        type=_later_prompt,
        action="append",
        metavar="SECONDS:PROMPT",
        help="a prompt that takes over from there on; repeatable",
    )

    _add_metadata(submit, "words of your own, kept with the job; repeatable")
    submit.add_argument("--webhook", metavar="URL", help="where to tell of the job's end")
    submit.add_argument(
        "--webhook-event",
        action="append",
        choices=get_args(WebhookEvent),
        help="tell of this instead; repeatable",
    )
    submit.add_argument("--idempotency-key", metavar="KEY", help="the same again is the same job")
    submit.add_argument("--dry-run", action="store_true", help="say what would come of it")


def _add_metadata(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--metadata", type=_pair, action="append", metavar="KEY=VALUE", help=text)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"write KEY=VALUE, not {text!r}")
    return name, value


def _later_prompt(text: str) -> dict[str, Any]:
    seconds, colon, prompt = text.partition(":")
    try:
        return {"seconds": float(seconds if colon else ""), "prompt": prompt}
    except ValueError:
        raise argparse.ArgumentTypeError(f"write SECONDS:PROMPT, not {text!r}") from None


def _command(
    found: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    text: str,
    *,
    job: bool = False,
) -> argparse.ArgumentParser:
    made = found.add_parser(name, help=text, description=f"{text.capitalize()}.")
    made.set_defaults(run=run)
    made.add_argument("--json", action="store_true", help="JSON on standard output")
    if job:
        made.add_argument("job", metavar="JOB", help="the job's id")
    return made


if __name__ == "__main__":
    sys.exit(main())
