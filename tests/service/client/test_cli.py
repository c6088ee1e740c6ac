"""`framepack-jobs`, called as a user calls it: what it prints, and its exit status."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client.cli import main
from service.contract.errors import Problem
from service.contract.job import JobRequest, Lane
from tests.support.lanes import HandWorker
from tests.support.processes import wait_for
from tests.support.valkey import free_port

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(gateway: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["--url", gateway.url, *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def photo(picture: bytes, tmp_path: Path) -> str:
    path = tmp_path / "photo.jpg"
    path.write_bytes(picture)
    return str(path)


def test_submit_and_get_print_a_line_or_json(run: Run, photo: str) -> None:
    status, line, _ = run("submit", photo, "x", "--seconds", "2.4", "--seed", "3")
    job_id, word, percent = line.split()
    assert (status, word, percent) == (0, "queued", "0%")
    status, text, _ = run("get", job_id, "--json")
    job = json.loads(text)
    assert (status, job["id"], job["seed"]) == (0, job_id, 3)
    assert job["input"]["seconds"] == 2.4


def test_a_picture_that_is_not_there_is_named(run: Run) -> None:
    status, _, error = run("submit", "missing.jpg", "x")
    assert (status, error) == (2, "framepack-jobs: missing.jpg: No such file or directory\n")


def test_a_prompt_alone_is_text_to_video(
    run: Run, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for words in (["a girl"], [photo, "a girl"], [photo, "--seed", "3", "a girl"]):
        status, text, _ = run("submit", *words[:1], "--json", *words[1:])
        shown.append(json.loads(text)["plan"]["num_frames"])
        assert status == 0
    assert shown == [141, 145, 145]
    with pytest.raises(SystemExit):
        run("submit", photo)
    assert "is a file: write IMAGE, then PROMPT" in capsys.readouterr().err


def test_watching_a_job_saves_its_video(
    run: Run, photo: str, worker: HandWorker, tmp_path: Path, http: httpx.Client
) -> None:
    _, line, _ = run("submit", photo, "x", "--seconds", "1")
    job_id = line.split()[0]

    def work() -> None:
        wait_for(lambda: "framepack_sse_clients 1.0" in http.get("/metrics").text)
        worker.run_all(1)

    threading.Thread(target=work).start()
    out = tmp_path / "out.mp4"
    status, printed, progress = run("watch", job_id, "-o", str(out))
    assert (status, printed) == (0, f"{out}\n")
    assert out.read_bytes().endswith(b"deliver 1")
    assert "0/1 sections  queued, place 1 in the queue" in progress
    assert "1/1 sections  section 1 can be played" in progress
    status, printed, _ = run("fetch", job_id, "-o", str(tmp_path / "again.mp4"), "--json")
    assert (status, json.loads(printed)["num_frames"]) == (0, 37)


def test_events_as_json_lines(run: Run, photo: str, worker: HandWorker) -> None:
    _, line, _ = run("submit", photo, "x", "--seconds", "1")
    worker.run_all(1)
    status, printed, _ = run("watch", line.split()[0], "--json")
    (event,) = map(json.loads, printed.splitlines())
    assert (status, event["type"], event["data"]["status"]) == (0, "snapshot", "completed")


def test_a_failed_or_cancelled_job_is_status_one(run: Run, photo: str, worker: HandWorker) -> None:
    _, line, _ = run("submit", photo, "x")
    problem = Problem(code="no_space", title="Full", detail="The disk is full.")
    worker.record.fail(worker.claim(Lane.RENDER), problem)
    status, _, err = run("watch", line.split()[0])
    assert (status, err.splitlines()[-1]) == (1, "framepack-jobs: The disk is full.")

    _, line, _ = run("submit", photo, "x")
    assert run("cancel", line.split()[0])[:2] == (0, f"{line.split()[0]} cancelled 0%\n")
    status, _, err = run("watch", line.split()[0])
    assert status == 1
    assert "the job was cancelled" in err


def test_a_job_is_paused_and_goes_on(run: Run, photo: str) -> None:
    _, line, _ = run("submit", photo, "x")
    job_id = line.split()[0]
    assert run("pause", job_id)[:2] == (0, f"{job_id} paused 0%\n")
    assert run("resume", job_id)[:2] == (0, f"{job_id} queued 0%\n")
    assert run("resume", "0" * 32)[0] == 2


def test_jobs_are_listed_and_deleted(run: Run, photo: str) -> None:
    first, second = (run("submit", photo, "x", "--seed", seed)[1].split()[0] for seed in "12")
    lines = run("list")[1].splitlines()
    assert [line.partition("%")[0] for line in lines] == [f"{i} queued 0" for i in (second, first)]
    assert all(line.endswith("  x") for line in lines)
    run("cancel", first)
    _, text, _ = run("list", "--status", "cancelled", "--json")
    assert [json.loads(line)["id"] for line in text.splitlines()] == [first]
    assert run("list", "--limit", "1")[1].startswith(second)
    assert run("delete", second)[0] == 2
    assert run("delete", first)[:2] == (0, f"{first} deleted\n")
    assert run("get", first)[0] == 2


def test_refusals_are_status_two(run: Run, photo: str, tmp_path: Path) -> None:
    status, out, err = run("submit", photo, "x", "--steps", "0")
    assert (status, out) == (2, "")
    assert err.startswith("framepack-jobs: The request has invalid fields; #/steps: ")
    status, out, _ = run("get", "--json", "0" * 32)
    assert (status, json.loads(out)["code"]) == (2, "job_not_found")
    assert run("submit", str(tmp_path / "none.png"), "x")[0] == 2
    with pytest.raises(SystemExit) as wrong:
        run("submit", photo)
    assert wrong.value.code == 2


def test_a_service_that_is_not_there_is_status_three(
    photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert main(["--url", url, "submit", photo, "x", "--json"], retry_seconds=(0.01,)) == 3
    out, err = capsys.readouterr()
    assert f"the service at {url} is unavailable" in err
    assert json.loads(out)["code"] == "unavailable"


def test_methods_and_later_prompts_are_options(run: Run, photo: str) -> None:
    options = ("--ranking", "similarity", "--history-noise", "0.1", "--order", "planned")
    later = ("--prompt-at", "1.3:it turns: slowly", "--prompt-at", "2.5:it stops")
    status, text, _ = run("submit", photo, "x", "--seconds", "3.6", *options, *later, "--json")
    assert status == 0
    given = json.loads(text)["input"]
    assert (given["ranking"], given["history_noise"]) == ("similarity", 0.1)
    assert [each["prompt"] for each in given["later_prompts"]] == ["it turns: slowly", "it stops"]


def test_every_field_of_a_request_is_an_option(run: Run, photo: str) -> None:
    chosen = {
        "preset": "tiny",
        "seconds": 2.5,
        "steps": 3,
        "seed": 5,
        "order": "inverted",
        "schedule": "f1k1_x_g9_f1k1f2k2f16k4_td",
        "size": "64x64",
        "guidance_scale": None,
        "cfg_scale": 2.0,
        "negative_prompt": "nothing",
        "later_prompts": [{"seconds": 1.3, "prompt": "it turns"}],
        "ranking": "similarity",
        "history_noise": 0.1,
        "history_noise_mode": "constant",
        "history_guidance": 1.5,
        "attention": "full",
        "quality": "draft",
        "priority": "low",
        "ttl_seconds": 60,
        "timeout_seconds": 90,
        "retention_seconds": 120,
        "webhook": {"url": "https://example.com/hook", "events": ["job.failed"]},
        "metadata": {"project": "red", "note": "a=b"},
    }
    options = ["--prompt-at", "1.3:it turns", "--webhook", "https://example.com/hook"]
    options += ["--webhook-event", "job.failed", "--metadata", "project=red"]
    options += ["--metadata", "note=a=b"]
    for name in set(chosen) - {"later_prompts", "webhook", "metadata"}:
        if chosen[name] is not None:
            options += [f"--{name.replace('_', '-')}", str(chosen[name])]
    status, text, err = run("submit", photo, "x", *options, "--json")
    assert status == 0, err
    given = json.loads(text)["input"]
    assert set(JobRequest.model_fields) == {*chosen, "prompt"}, "give the new field an option"
    assert {name: given[name] for name in chosen} == chosen
    _, found, _ = run("list", "--metadata", "project=red", "--metadata", "note=a=b")
    assert found.startswith(json.loads(text)["id"])
    assert run("list", "--metadata", "project=blue") == (0, "", "")


def test_a_dry_run_says_what_would_come(run: Run, photo: str) -> None:
    status, line, _ = run("submit", photo, "x", "--seconds", "2.4", "--dry-run")
    assert status == 0
    assert line.startswith("2 sections, 2.433 s of 80x48; about ")
    _, text, _ = run("submit", photo, "x", "--seconds", "2.4", "--dry-run", "--json")
    assert json.loads(text)["plan"]["num_frames"] == 73
    assert run("list")[1] == ""


def test_the_same_key_is_the_same_job(run: Run, photo: str) -> None:
    first, second = (
        run("submit", photo, "x", "--seed", "1", "--idempotency-key", "k")[1] for _ in range(2)
    )
    assert first == second


def test_waiting_shows_how_it_ended(run: Run, photo: str, worker: HandWorker) -> None:
    status, line, _ = run("submit", photo, "x", "--seconds", "1", "--wait", "0.1")
    job_id = line.split()[0]
    assert (status, line) == (0, f"{job_id} queued 0%\n")
    threading.Timer(0.3, lambda: worker.run_all(1)).start()
    assert run("get", job_id, "--wait", "30")[:2] == (0, f"{job_id} completed 100%\n")
    _, line, _ = run("submit", photo, "x")
    run("cancel", line.split()[0])
    assert run("get", line.split()[0], "--wait", "30")[0] == 1


def test_a_program_reads_the_reasons_as_json(run: Run, photo: str) -> None:
    status, out, _ = run("submit", photo, "x", "--steps", "0", "--json")
    assert (status, json.loads(out)["errors"][0]["pointer"]) == (2, "#/steps")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_and_options(shell: str, run: Run) -> None:
    status, script, _ = run("completion", shell)
    assert status == 0
    assert "--prompt-at" in script


def test_bash_completes_a_command(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(run("completion", "bash")[1])
    ask = (
        f"source {script}; COMP_WORDS=(framepack-jobs pau); COMP_CWORD=1; "
        "_shtab_framepack_jobs; echo ${COMPREPLY[@]}"
    )
    said = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["pause"]


def test_the_client_needs_no_server_packages() -> None:
    ask = "import sys, service.client.cli; print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"redis", "rq", "boto3", "fastapi", "starlette", "torch", "av", "numpy"} & set(said)


def test_operators_make_keys(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAMEPACK_REDIS_URL", redis_url)
    assert main(["keys", "create", "studio", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["keys", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["keys"]
    assert listed["id"] == made["id"]
    assert "key" not in listed
