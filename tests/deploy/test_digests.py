"""Digests are written all or not at all. A stand-in answers where a registry would."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "digests.sh"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def asked(folder: Path, answer: str) -> subprocess.CompletedProcess[str]:
    """Run the script where `docker` runs these lines of a shell."""
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\nimage=$(eval echo \\"\\${{$#}}\\")\n{answer}\n')
    program.chmod(0o755)
    return subprocess.run(
        [SCRIPT, folder / "digests.env"],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        check=False,
        text=True,
    )


def test_every_image_that_is_not_ours_gets_its_digest(tmp_path: Path) -> None:
    result = asked(tmp_path, f"echo {DIGEST}")
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "digests.env").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert found.keys() >= {"PYTHON_BASE", "REDIS_IMAGE", "STORE_IMAGE", "GRAFANA_IMAGE"}
    assert not found.keys() & {"GATEWAY_IMAGE", "WORKER_IMAGE"}
    assert all(value.endswith(f"@{DIGEST}") for value in found.values())
    assert found["PYTHON_BASE"].startswith("python:")


@pytest.mark.parametrize(
    "answer", ['[ "${image#nginx}" = "$image" ] && echo ' + DIGEST, "echo latest"]
)
def test_without_an_answer_nothing_is_written(tmp_path: Path, answer: str) -> None:
    result = asked(tmp_path, answer)
    assert result.returncode == 1
    assert "nothing was written" in result.stderr
    assert not (tmp_path / "digests.env").exists()
