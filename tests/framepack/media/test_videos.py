"""Recorded videos at a constant rate. Each test frame's brightness is its number."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from framepack.errors import MediaError
from framepack.media.clips import encode_clip
from framepack.media.videos import probe_video, read_frames


def brightness(number: int) -> int:
    return 20 + 5 * number


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """40 frames at 30 per second, whose time line begins at frame 7."""
    values = np.array([brightness(n) for n in range(40)], np.uint8)
    frames = np.broadcast_to(values[:, None, None, None], (40, 32, 48, 3)).copy()
    path = tmp_path / "video.mp4"
    path.write_bytes(encode_clip(frames, first_frame=7, fps=30).data)
    return path


def shown(path: Path, fps: float, start: int, count: int) -> list[int]:
    frames = list(read_frames(path, fps, start, count))
    assert {frame.shape for frame in frames} <= {(32, 48, 3)}
    return [round((float(frame.mean()) - 20) / 5) for frame in frames]


def test_the_index_tells_size_and_length(video: Path) -> None:
    info = probe_video(video)
    assert info.size == (32, 48)
    assert info.first == Fraction(7, 30)
    assert [info.num_frames(fps) for fps in (30, 15, 60, 12)] == [40, 20, 79, 16]


def test_frames_repeat_or_drop_out_where_rates_differ(video: Path) -> None:
    assert shown(video, 30, 0, 40) == list(range(40))
    assert shown(video, 30, 31, 5) == [31, 32, 33, 34, 35]
    assert shown(video, 15, 3, 4) == [6, 8, 10, 12]
    assert shown(video, 60, 0, 6) == [0, 0, 1, 1, 2, 2]
    assert shown(video, 24, 0, 5) == [0, 1, 2, 4, 5]


def test_a_variable_rate_becomes_constant(tmp_path: Path) -> None:
    """Frames at 0, 1, 2, 10, 11 tenths of a second: the gap shows its nearer end."""
    path = tmp_path / "variable.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number, tenth in enumerate((0, 1, 2, 10, 11)):
            pixels = np.full((32, 48, 3), brightness(number), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tenth, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert probe_video(path).num_frames(10) == 12
    assert shown(path, 10, 0, 12) == [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4]
    assert shown(path, 10, 8, 3) == [3, 3, 3]


def test_what_cannot_be_read_is_said(video: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="has 40 frames at 30 per second, not 9"):
        list(read_frames(video, 30, 35, 9))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(MediaError, match=r"text\.mp4 as a video"):
        probe_video(text)
