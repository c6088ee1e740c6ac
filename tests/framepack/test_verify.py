"""The golden loops: the whole way from noise to a video's latents, as the official code goes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framepack.cli import main
from framepack.models.fused import fuse
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.verify import LoopCase, compare, golden_model

LOOPS = Path(__file__).parents[1] / "golden" / "loops.json"
CASES: list[dict[str, Any]] = json.loads(LOOPS.read_text())["cases"]
TOLERANCE = 1e-4


def loop_case(raw: dict[str, Any]) -> LoopCase:
    return LoopCase(**{key: value for key, value in raw.items() if key != "result"})


@pytest.mark.parametrize("form", [fuse, lambda model: model], ids=["fused", "as trained"])
@pytest.mark.parametrize("raw", CASES, ids=lambda raw: loop_case(raw).name)
def test_every_golden_loop(
    raw: dict[str, Any], form: Callable[[PackedHunyuanVideo], PackedHunyuanVideo]
) -> None:
    result = compare(loop_case(raw), raw["result"], form(golden_model()))
    assert result.values == 96
    assert result.max_error <= TOLERANCE


def test_the_numbers_would_notice_a_wrong_loop() -> None:
    """The same loop in the other order of sections is far away."""
    raw = {**CASES[0], "sampling": "forward"}
    assert compare(loop_case(raw), raw["result"], golden_model()).max_error > 0.05


def test_json_names_every_case_and_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(LOOPS), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] is True
    assert len(printed["cases"]) == len(CASES)
    assert all(0 <= case["max_error"] <= TOLERANCE for case in printed["cases"])


def test_an_error_over_the_tolerance_is_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(LOOPS), "--tolerance", "1e-9"]) == 1
    assert "over 1e-09" in capsys.readouterr().out


def test_a_wrong_file_is_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cases.json"
    for content in ("", "[]", '{"cases": []}', '{"cases": [{"sampling": "inverted"}]}'):
        path.write_text(content)
        assert main(["verify", str(path)]) == 2
    assert main(["verify", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_runs_from_any_folder(tmp_path: Path) -> None:
    program = "import sys; from framepack.cli import main; sys.exit(main())"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program, "verify", str(LOOPS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok") == len(CASES)
