"""Every way a job can fail is documented, as it is told."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import httpx
import pytest

from framepack.errors import InvalidRequest
from service.contract import record
from service.contract.deadlines import deadlines_of
from service.contract.errors import Problem
from service.contract.job import JobRequest
from service.contract.job_problems import JOB_PROBLEMS, RETRIED
from worker import failures

ROOT = Path(__file__).parents[3]


def told() -> dict[str, Problem]:
    """The problems that jobs end with, by code."""
    late = deadlines_of(JobRequest(prompt="x", ttl_seconds=1, timeout_seconds=1))
    found = [
        record.WORKER_CRASHED,
        record.INVALID_RECORD,
        *(Problem.model_validate_json(late[name]) for name in ("ttl_problem", "timeout_problem")),
        *(failures.problem_of(kind.__new__(kind)) for kind, *_ in failures._KNOWN),
        failures.problem_of(MemoryError()),
        failures.problem_of(OSError(errno.ENOSPC, "full")),
        failures.problem_of(RuntimeError()),
        failures.problem_of(InvalidRequest("steps", "too many")),
    ]
    return {problem.code: problem for problem in found}


def test_every_code_is_documented_as_it_is_told() -> None:
    problems = told()
    assert set(problems) - {"invalid_request"} == set(JOB_PROBLEMS)
    for code, kind in JOB_PROBLEMS.items():
        assert (problems[code].title, problems[code].retryable) == (kind.title, kind.retryable)


def test_what_is_tried_again_is_what_workers_tell_and_is_retryable() -> None:
    own = {record.WORKER_CRASHED.code, record.INVALID_RECORD.code}
    late = {"not_started_in_time", "timed_out"}
    by_workers = {code: kind for code, kind in told().items() if code not in own | late}
    assert set(RETRIED) == {code for code, kind in by_workers.items() if kind.retryable}


def test_no_code_is_told_that_is_not_looked_at_here() -> None:
    sources = [
        path for name in ("service/contract", "worker") for path in ROOT.glob(f"{name}/**/*.py")
    ]
    codes = {
        code
        for path in sources
        for code in re.findall(r"Problem\(\s*code=\"(\w+)\"", path.read_text())
    }
    assert codes <= set(told())


@pytest.mark.parametrize("code", ["not_started_in_time", "timed_out", "worker_crashed"])
def test_its_page_says_what_helps(http: httpx.Client, code: str) -> None:
    problem = told()[code]
    assert problem.type == f"/problems/{code}"
    found = http.get(problem.type).json()
    assert (found["title"], found["retryable"]) == (problem.title, problem.retryable)
    assert found["status"] is None, "no answer has this code, a job has"
    assert len(found["meaning"]) > 40


def test_the_index_leads_to_all(http: httpx.Client) -> None:
    found = http.get("/problems").json()["data"]
    assert {each["code"] for each in found} > set(JOB_PROBLEMS)
    for each in found:
        assert http.get(f"/problems/{each['code']}").json() == each
