"""The command line: what it makes, what it says, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from framepack.cli import main

GOLDEN = Path(__file__).parents[1] / "golden" / "loops.json"


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((90, 70)).save(path)
    return str(path)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.mp4"


def run(nano_folder: Path, photo: str, output: Path, *options: str) -> int:
    fixed = ["generate", photo, "a red ball", "-o", str(output), "--weights", str(nano_folder)]
    return main([*fixed, "--device", "cpu", "--steps", "1", "--seconds", "1", *options])


def test_generate_writes_the_video_and_says_so(
    nano_folder: Path, photo: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(nano_folder, photo, output) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{output}: 37 frames, 1 sections, 1.23 s\n"
    assert "section 1/1: 100%" in printed.err
    with av.open(str(output)) as container:
        assert container.streams.video[0].frames == 37


def test_generate_without_a_picture(
    nano_folder: Path, photo: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--weights", str(nano_folder), "--device", "cpu", "--steps", "1", "--seconds", "1"]
    assert main(["generate", "a red ball", "-o", str(output), "--size", "80x48", *fixed]) == 0
    assert capsys.readouterr().out == f"{output}: 33 frames, 1 sections, 1.10 s\n"
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.width, stream.height) == (33, 80, 48)
    assert main(["generate", photo, "-o", str(output), *fixed, "a red ball"]) == 0
    assert "37 frames" in capsys.readouterr().out, "a picture, options, then the prompt"
    assert main(["generate", "a ball", "-o", str(output), "--order", "inverted", *fixed]) == 2
    assert "give an image, or choose one of: forward" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["generate", photo, "-o", str(output), *fixed])
    assert "is a file: write IMAGE, then PROMPT" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["generate", photo, "a", "ball", "-o", str(output)])
    assert "unrecognized arguments: ball" in capsys.readouterr().err


def test_every_option_reaches_the_video(nano_folder: Path, photo: str, output: Path) -> None:
    variants = [
        (),
        ("--seed", "1"),
        ("--steps", "3"),
        ("--steps", "3", "--teacache", "100"),
        ("--guidance-scale", "3"),
        ("--cfg-scale", "2"),
        ("--cfg-scale", "2", "--negative-prompt", "a blue ring"),
        ("--order", "forward"),
        ("--schedule", "f1k1_x_g9_f1k1_td"),
        ("--schedule", "temporal_kernel"),
        ("--size", "80x48"),
        ("--attention", "causal"),
        ("--steps", "2", "--history-noise", "0.5"),
        ("--steps", "2", "--history-noise", "0.5", "--history-noise-mode", "constant"),
        ("--history-noise", "0.5", "--history-guidance", "2"),
        ("--seconds", "2.4"),
        ("--seconds", "2.4", "--delivery", "official"),
    ]
    made = {}
    for options in variants:
        assert run(nano_folder, photo, output, *options) == 0
        made[options] = output.read_bytes()
    assert len(set(made.values())) == len(variants)


def test_a_lora_reaches_the_video_and_a_foreign_one_is_a_failure(
    nano_folder: Path,
    photo: str,
    output: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "transformer_blocks.0.attn.to_q"
    factors = {f"{name}.lora_down.weight": torch.ones(1, 32)}
    factors[f"{name}.lora_up.weight"] = torch.ones(32, 1)
    path, foreign = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    save_file(factors, path)
    save_file({"other." + key: tensor for key, tensor in factors.items()}, foreign)
    made = set()
    for options in ((), ("--lora", str(path)), ("--lora", f"{path}:-0.5"), ("--lora", f"{path}:0")):
        assert run(nano_folder, photo, output, *options) == 0
        made.add(output.read_bytes())
    assert len(made) == 3
    capsys.readouterr()
    assert run(nano_folder, photo, output, "--lora", str(foreign)) == 1
    assert f"other.{name}.lora_down.weight" in capsys.readouterr().err
    assert run(nano_folder, photo, output, "--lora", f"{tmp_path}/absent") == 2


def test_a_lora_is_told_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fused = "double_blocks.1.img_attn_qkv"
    path, converted = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    down, up = torch.randn(3, 192), torch.randn(3 * 192, 3)
    save_file({f"{fused}.lora_A.weight": down, f"{fused}.lora_B.weight": up}, path)
    command = ["lora", str(path), "--model", "tiny"]
    assert main([*command, "-o", str(converted), "--dialect", "kohya"]) == 0
    assert "changes 3 modules, rank 3\n" in capsys.readouterr().out
    state = load_file(converted)
    value = "lora_unet_transformer_blocks_1_attn_to_v"
    torch.testing.assert_close(
        state[f"{value}.lora_up.weight"] @ state[f"{value}.lora_down.weight"], up[2 * 192 :] @ down
    )
    assert main([*command, "--dialect", "none"]) == 2
    assert "choose one of: diffusers, kohya, original" in capsys.readouterr().err
    assert main(["lora", str(path)]) == 1  # not for the released model
    assert "[3, 192]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seconds", "0"), "seconds: must be between"),
        (("--order", "sideways"), "order: there is no"),
        (("--preset", "huge"), "preset: there is no"),
        (("--schedule", "f1k1_x_g8_f1k1_td"), "schedule: "),
        (("--delivery", "post"), "delivery: there is no 'post'"),
        (("--device", "abacus"), "device: 'abacus' is no device"),
        (("--weights", "/nowhere/at/all"), "weights: /nowhere/at/all is not a folder"),
        (("-o", "/nowhere/at/all.mp4"), "output: there is no folder /nowhere/at"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_wish_that_cannot_be_served_exits_with_2_and_one_sentence(
    nano_folder: Path,
    photo: str,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert run(nano_folder, photo, output, *options) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"framepack: {message}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not output.exists()


def test_a_schedule_that_does_not_parse_is_pointed_at(
    nano_folder: Path, photo: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(nano_folder, photo, output, "--schedule", "f1k1_y_g9") == 2
    name, caret, sentence = capsys.readouterr().err.splitlines()
    assert name[caret.index("^")] == "y"
    assert sentence.startswith("framepack: schedule: at character 6")


def test_a_picture_that_cannot_be_read_is_the_users(
    nano_folder: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(nano_folder, str(output / "none.png"), output) == 2
    assert capsys.readouterr().err.startswith("framepack: image: cannot read")


def test_weights_that_do_not_fit_are_a_failure(
    photo: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, photo, output) == 1
    assert "has no folder 'vae'" in capsys.readouterr().err


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(["generate", "photo.png"])
    assert exit_status.value.code == 2
    assert "required" in capsys.readouterr().err


def test_verify_reports_each_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = json.loads(GOLDEN.read_text())
    golden["cases"] = [min(golden["cases"], key=lambda case: case["n"] * case["steps"])]
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps(golden))
    assert main(["verify", str(cases), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["cases"]
    assert result["max_error"] <= 1e-4
    assert main(["verify", str(cases), "--tolerance", "0"]) == 1
    assert "over 0" in capsys.readouterr().out


def test_help_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'diffusers', 'transformers', 'av', 'tqdm')))\n"
        "from framepack.cli import main\n"
        "main(['generate', '--help'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "--teacache" in result.stdout
