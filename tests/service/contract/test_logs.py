"""Lines of the log: the fields that are promised, what they are about, and what is masked."""

import json
import subprocess
import sys

import pytest

from service.contract.logs import masked

PROGRAM = """
import logging, sys, warnings
from service.contract import logs
from service.contract.settings import Settings
from service.contract.tracing import continuing

logs.configure(Settings(log_format=sys.argv[1], log_level=sys.argv[2]), "framepack-gateway")
log = logging.getLogger("service.somewhere")
log.info("before")
with logs.about(job_id="a1", section=None), continuing("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"):
    log.warning("two\\nlines %s", "redis://user:hunter2@host:6379/0", extra={"status": 7})
warnings.warn("old", DeprecationWarning)
raise RuntimeError("at fp_0123456789ab_" + "f" * 64)
"""


def run(log_format: str, level: str = "INFO") -> list[str]:
    command = [sys.executable, "-W", "always", "-c", PROGRAM, log_format, level]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.splitlines()


def test_each_line_is_an_object_with_the_promised_fields() -> None:
    before, warned, old, end = map(json.loads, run("json"))
    assert set(before) == {"time", "level", "logger", "message", "service", "process"}
    assert before["time"].endswith("+00:00")
    assert (before["level"], before["logger"]) == ("INFO", "service.somewhere")
    assert before["service"] == "framepack-gateway"
    assert warned["message"] == "two\nlines redis://***@host:6379/0"
    assert (warned["job_id"], warned["status"], "section" in warned) == ("a1", 7, False)
    assert (warned["trace_id"], warned["span_id"]) == ("ab" * 16, "cd" * 8)
    assert (old["logger"], old["level"]) == ("py.warnings", "WARNING")
    assert end["level"] == "CRITICAL"
    assert "Traceback" in end["exception"]
    assert "at fp_0123456789ab_***" in end["exception"]


def test_text_is_for_people() -> None:
    lines = run("text", "WARNING")
    assert "before" not in "".join(lines)
    assert lines[0].endswith("WARNING service.somewhere: two")
    assert lines[1] == "lines redis://***@host:6379/0 job_id=a1"
    assert lines[-1] == "RuntimeError: at fp_0123456789ab_***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /x?expires=1&signature=abc HTTP", "GET /x?expires=1&signature=*** HTTP"),
        ('"https://s3/x?X-Amz-Credential=a%2Fb&X-Amz-Signature=c"', None),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("/jobs/1/events?token=1.2", "/jobs/1/events?token=***"),
        ("secret whsec_MfKQ9r8GKYqr+/=", "secret whsec_***"),
        ("https://example.org/a:b@c", "https://example.org/a:b@c"),
        ("the signature is wrong", "the signature is wrong"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, shown: str | None) -> None:
    default = '"https://s3/x?X-Amz-Credential=***&X-Amz-Signature=***"'
    assert masked(text) == (shown or default)
