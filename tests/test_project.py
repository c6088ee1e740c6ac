"""The project as a whole: its layers, and what a commit must never hold."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def tracked_text_files() -> list[tuple[Path, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    files = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes()[:1024]:
            files.append((path, path.read_text(encoding="utf-8")))
    return files


def test_each_package_imports_only_what_it_may() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_modules_that_decide_start_without_torch() -> None:
    """The gateway plans jobs with them, and has no torch."""
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'diffusers', 'transformers', 'av', 'numpy')))\n"
        "from framepack.generation.plan import GenerationRequest, plan_generation\n"
        "plan = plan_generation(GenerationRequest('a dog', preset='framepack-i2v'), (1080, 1920))\n"
        "assert plan.num_pixel_frames == 145, plan\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, text=True
    )
    assert result.returncode == 0, result.stderr


def test_no_tracked_file_names_a_home_or_a_work_folder() -> None:
    pattern = re.compile(r"(?<![\w.])/(home|root|Users|work)/[\w.-]+/")
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path, text in tracked_text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert named == []


def test_no_module_is_called_by_a_name_that_says_nothing() -> None:
    empty_names = {"utils.py", "helpers.py", "common.py", "misc.py", "manager.py"}
    found = [path for path, _ in tracked_text_files() if path.name in empty_names]
    assert found == []
