"""Clips play alone, concatenated and joined, and show the same frames each time."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from jaxtyping import UInt8

from framepack.errors import MediaError
from framepack.media.clips import Clip, encode_clip, join_clips, top_level_boxes

Frames = UInt8[np.ndarray, "n height width 3"]


def moving_picture(num_frames: int, height: int = 64, width: int = 48) -> Frames:
    """Smooth grey gradients that drift by one pixel a frame."""
    ramp = np.linspace(30, 220, height)
    rows = np.stack([np.roll(ramp, n) for n in range(num_frames)])
    frames = np.broadcast_to(rows[:, :, None, None], (num_frames, height, width, 3))
    return np.ascontiguousarray(frames.astype(np.uint8))


def decoded(source: bytes | Path) -> Frames:
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


def files(clips: list[Clip]) -> list[io.BytesIO]:
    return [io.BytesIO(clip.data) for clip in clips]


@pytest.fixture(scope="module")
def picture() -> Frames:
    return moving_picture(73)


@pytest.fixture(scope="module")
def clips(picture: Frames) -> list[Clip]:
    """As the inverted order delivers them: the end of the video first."""
    runs = [(53, 73), (1, 53), (0, 1)]
    return [encode_clip(picture[a:b], first_frame=a) for a, b in runs]


def test_each_clip_plays_alone_from_its_own_time(clips: list[Clip], picture: Frames) -> None:
    for clip in clips:
        frames = decoded(clip.data)
        expected = picture[clip.first_frame :][: clip.num_frames]
        assert frames.shape == expected.shape
        assert np.abs(frames.astype(int) - expected).mean() < 1.5
        with av.open(io.BytesIO(clip.data)) as container:
            stream = container.streams.video[0]
            stamps = [p.pts * stream.time_base * 30 for p in container.demux(stream) if p.size]
        assert stamps == list(range(clip.first_frame, clip.first_frame + clip.num_frames))


def test_clip_is_an_init_and_one_fragment_that_starts_with_a_key_frame(clips: list[Clip]) -> None:
    for clip in clips:
        kinds = [kind for kind, _, _ in top_level_boxes(clip.data)]
        assert kinds == ["ftyp", "moov", "moof", "mdat"]
        with av.open(io.BytesIO(clip.data)) as container:
            keys = [p.is_keyframe for p in container.demux(video=0) if p.size]
        assert keys == [True] + [False] * (clip.num_frames - 1)


def test_init_is_the_same_for_all_clips_of_a_size(clips: list[Clip]) -> None:
    assert len({clip.data[: clip.init_bytes] for clip in clips}) == 1
    other = encode_clip(moving_picture(2, 48, 64), first_frame=0)
    assert other.data[: other.init_bytes] != clips[0].data[: clips[0].init_bytes]


def test_init_and_fragments_in_time_order_play_as_one_video(clips: list[Clip]) -> None:
    in_time = sorted(clips, key=lambda clip: clip.first_frame)
    whole = in_time[0].data[: in_time[0].init_bytes]
    whole += b"".join(clip.data[clip.init_bytes :] for clip in in_time)
    each = np.concatenate([decoded(clip.data) for clip in in_time])
    assert np.array_equal(decoded(whole), each)


def test_joined_video_holds_the_clips_frames_behind_its_index(
    clips: list[Clip], tmp_path: Path
) -> None:
    in_time = sorted(clips, key=lambda clip: clip.first_frame)
    paths = []
    for number, clip in enumerate(in_time):
        paths.append(tmp_path / f"{number}.mp4")
        paths[-1].write_bytes(clip.data)
    output = tmp_path / "joined.mp4"
    assert join_clips(iter(paths), output) == 73
    assert [kind for kind, _, _ in top_level_boxes(output.read_bytes())][:2] == ["ftyp", "moov"]
    assert np.array_equal(decoded(output), np.concatenate([decoded(c.data) for c in in_time]))
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)
        assert (context.colorspace, context.color_range) == (1, 1)
        assert stream.frames == 73
        packets = [p for p in container.demux(stream) if p.size]
    stamps = [(p.pts * 30 * p.time_base, p.dts * 30 * p.time_base) for p in packets]
    assert stamps == [(n, n) for n in range(73)]


def test_same_frames_give_the_same_bytes(picture: Frames, tmp_path: Path) -> None:
    first, second = (encode_clip(picture[:40], first_frame=5) for _ in range(2))
    assert first == second
    videos = []
    for name in ("a.mp4", "b.mp4"):
        join_clips(files([encode_clip(picture[:40], first_frame=0)]), tmp_path / name)
        videos.append((tmp_path / name).read_bytes())
    assert videos[0] == videos[1]


@pytest.mark.parametrize("skipped", [0, 1])
def test_join_refuses_a_gap(clips: list[Clip], skipped: int, tmp_path: Path) -> None:
    in_time = sorted(clips, key=lambda clip: clip.first_frame)
    del in_time[skipped]
    with pytest.raises(MediaError, match=r"was expected"):
        join_clips(files(in_time), tmp_path / "gap.mp4")
    assert list(tmp_path.iterdir()) == []


def test_join_refuses_clips_of_two_sizes(tmp_path: Path) -> None:
    pair = [encode_clip(moving_picture(2, 48, 64), 0), encode_clip(moving_picture(2, 64, 48), 2)]
    with pytest.raises(MediaError, match="other coding parameters"):
        join_clips(files(pair), tmp_path / "mixed.mp4")


def test_join_refuses_nothing_and_nonsense(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no clip"):
        join_clips([], tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="joining clips into none"):
        join_clips([io.BytesIO(b"not a video" * 99)], tmp_path / "none.mp4")
    assert list(tmp_path.iterdir()) == []


def test_encode_refuses_no_frames_and_odd_sides() -> None:
    with pytest.raises(MediaError, match="empty, or an odd side"):
        encode_clip(np.zeros((0, 64, 64, 3), np.uint8), 0)
    with pytest.raises(MediaError, match="odd side"):
        encode_clip(np.zeros((1, 63, 64, 3), np.uint8), 0)
