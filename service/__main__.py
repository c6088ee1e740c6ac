"""`python -m service COMMAND`: run the service, look after it, say who may use it.

`gateway` is the HTTP server, `up` all of it on this machine, `doctor` tells whether all is well,
`keys` makes and revokes API keys, `sweep` deletes what is stored and no longer needed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from service import keys, sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def _gateway(options: argparse.Namespace) -> int:
    from service.api.serve import serve

    return serve(options.host, options.port)


def _doctor(options: argparse.Namespace) -> int:
    from service.doctor import run

    return run(make_bucket=options.make_bucket)


def _up(options: argparse.Namespace) -> int:
    from service.up.children import CannotRun
    from service.up.stack import Stack

    _stop_on_signals()
    presets = [name for name in options.presets.split(",") if name]
    try:
        with Stack(
            options.data,
            host=options.host,
            port=options.port,
            presets=presets,
            open=options.open,
            say=_say,
        ) as stack:
            if stack.api_key:
                _say(f"export FRAMEPACK_API_KEY={stack.api_key}")
                _say(f"The page, with this key: {stack.url}/#key={stack.api_key}")
            _say(f"The service runs at {stack.url} (data in {options.data}). Ctrl-C stops it.")
            stack.watch(threading.Event())
    except CannotRun as error:
        _say(f"cannot run: {error}")
        return 1
    except KeyboardInterrupt:
        _say("stopped")
    return 0


def _stop_on_signals() -> None:
    """Make the first Ctrl-C or SIGTERM stop everything in order, and ignore impatient ones."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        _say("stopping ...")
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    gateway = commands.add_parser("gateway", help="the HTTP server; settings from FRAMEPACK_*")
    gateway.set_defaults(run=_gateway)
    gateway.add_argument("--host", default="127.0.0.1", help="address to listen on")
    gateway.add_argument("--port", type=int, default=8000, help="port to listen on")

    doctor = commands.add_parser("doctor", help="check the deployment; says what to fix")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument(
        "--make-bucket",
        action="store_true",
        help="first make the storage's bucket if it is missing",
    )

    up = commands.add_parser("up", help="the whole service on this machine, with embedded parts")
    up.set_defaults(run=_up)
    up.add_argument("--host", default="127.0.0.1", help="address to listen on")
    up.add_argument("--port", type=int, default=8000, help="port to listen on; 0: a free one")
    up.add_argument("--data", type=Path, default=Path("data"), help="folder of all that is kept")
    up.add_argument(
        "--open", action="store_true", help="ask nobody for an API key; only on loopback"
    )
    up.add_argument("--presets", default="", help="what the workers serve, with commas")
    keys.add_commands(commands)
    sweep.add_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
