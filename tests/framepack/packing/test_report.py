import argparse
import json
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path

import pytest

from framepack.errors import InvalidRequest, MediaError, ScheduleSyntaxError
from framepack.packing.accounting import context_worth
from framepack.packing.drawing import draw
from framepack.packing.report import (
    TABLE_MARKS,
    PackingReport,
    add_packing_arguments,
    latent_grid,
    packing_table,
    write_between,
)
from framepack.packing.schedule import parse_schedule

ROOT = Path(__file__).parents[3]


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_packing_arguments(parser)
    options = parser.parse_args(words)
    code: int = options.command(options)
    return code


def test_json_of_the_released_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("f1k1_x_td_f16k4f2k2f1k1_g9", "--size", "608x640", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "schedule": "f1k1_x_td_f16k4f2k2f1k1_g9",
        "levels": [
            {"kernel": "k1", "frames": 1, "tokens": 1520},
            {"kernel": "k4", "frames": 16, "tokens": 400},
            {"kernel": "k2", "frames": 2, "tokens": 380},
            {"kernel": "k1", "frames": 1, "tokens": 1520},
        ],
        "context_tokens": 3820,
        "target_tokens": 13680,
        "full_context_tokens": 30400,
        "tail_tokens": {"1": 0, "10": 0, "100": 0, "1000": 0},
    }


def test_a_kept_tail_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond 19 frames of history; 80 x 76 pooled by 32 are 3 x 3, one k4 for four frames."""
    appended, compressed = (
        PackingReport(parse_schedule(f"{tail}_f16k4f2k2f1k1_g9"), 80, 76) for tail in ("ta", "tc")
    )
    frames = {seconds: -(-15 * seconds // 2) - 19 for seconds in (1, 10, 100, 1000)}
    expected = {seconds: max(0, -(-beyond // 4)) for seconds, beyond in frames.items()}
    assert appended.tail_tokens == expected
    assert compressed.tail_tokens == {1: 0, 10: 1, 100: 1, 1000: 1}
    assert appended.context_tokens == compressed.context_tokens, "levels alone"
    assert run("ta_f16k4f2k2f1k1_g9", "--size", "608x640") == 0
    out = capsys.readouterr().out
    assert (
        "bound of the geometric series 11, kept before its tail, which grows without bound" in out
    )
    assert "0 at 1 s, 14 at 10 s, 183 at 100 s, 1871 at 1000 s" in out
    assert run("geometric") == 0
    assert "1.9375 + 9 generated; bound of the geometric series 11, kept" in capsys.readouterr().out
    assert run("important_start") == 0
    assert "exceeded by 0.9375, anchors included" in capsys.readouterr().out


def test_a_budget_is_met_by_doubling_and_dropping(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--budget", "2.625", "--depth", "4") == 0
    out = capsys.readouterr().out
    assert "2.625 + 9 generated" in out
    assert run("--budget", "5/8", "--depth", "4", "--json") == 0
    name = json.loads(capsys.readouterr().out)["schedule"]
    assert context_worth(parse_schedule(name)) == Fraction(5, 8)
    numbers = [["--budget", text] for text in ("much", "1/0", "0", "-1", "1e9")]
    for wrong in (*numbers, ["geometric", "--budget", "2"]):
        with pytest.raises(InvalidRequest) as caught:
            run(*wrong)
        assert caught.value.field == "budget"


def test_a_family_takes_discretised_history(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("temporal_kernel+D", "--depth", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["schedule"] == "td_f2k2f1k1_g9+D"


def test_size_is_width_by_height() -> None:
    assert latent_grid("608x640") == (80, 76)
    for wrong in ("608", "608x", "0x640", "600x640", "608x640x3", "-608x640"):
        with pytest.raises(InvalidRequest):
            latent_grid(wrong)


def test_text_names_every_level_and_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("td_f16k4f2k2f1k1_g9") == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["k4", "k2", "k1"]
    assert f"{2300 / 28880:.1%} of full context" in out


def test_a_bad_name_is_pointed_at() -> None:
    with pytest.raises(ScheduleSyntaxError) as caught:
        run("td_f16q4_g9")
    name, pointer = caught.value.pointer().splitlines()
    assert pointer.index("^") == name.index("q")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"absent.*No such file"):
        run("td_f1k1_g9", "--svg", str(tmp_path / "absent" / "layout.svg"))


def test_widths_of_the_drawing_are_tokens(tmp_path: Path) -> None:
    path = tmp_path / "layout.svg"
    assert run("td_f16k4f2k2f1k1_g9", "--svg", str(path)) == 0
    schedule = parse_schedule("td_f16k4f2k2f1k1_g9")
    boxes = ET.fromstring(path.read_text()).findall("{*}rect")[1:]
    frames, tokens = boxes[: 1 + 19 + 9], boxes[1 + 19 + 9 :]
    assert len({box.get("width") for box in frames}) == 1
    total = schedule.context_tokens(80, 76) + schedule.target_tokens(80, 76)
    expected = [100] * 4 + [380] + [1520] + [1520] * 9
    assert sum(expected) == total
    widths = [float(box.get("width", 0)) * total / 928 for box in tokens]
    assert widths == pytest.approx(expected, abs=0.1)
    assert path.read_text() == draw(schedule, 80, 76)


def test_attention_work_is_quadratic_in_all_tokens() -> None:
    report = PackingReport(parse_schedule("td_f1k1_g1"), 16, 16)
    assert report.attention_ratio == 1.0
    assert PackingReport(parse_schedule("td_f8k2_g1"), 16, 16).attention_ratio == (2 / 9) ** 2


def test_the_table_is_renewed_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "packing.md"
    document.write_text(f"before\n{TABLE_MARKS[0]}\nold\n{TABLE_MARKS[1]}\nafter\n")
    assert run("--write-table", str(document)) == 0
    assert document.read_text() == (
        f"before\n{TABLE_MARKS[0]}\n{packing_table()}{TABLE_MARKS[1]}\nafter\n"
    )
    document.write_text("no marks")
    with pytest.raises(InvalidRequest, match="needs one line"):
        run("--write-table", str(document))


def test_the_committed_table_is_current(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "packing.md").read_text(encoding="utf-8")
    copy = tmp_path / "packing.md"
    copy.write_text(text, encoding="utf-8")
    write_between(copy, TABLE_MARKS, packing_table())
    assert copy.read_text(encoding="utf-8") == text
