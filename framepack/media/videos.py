"""Videos in: their frames at a constant rate, whatever rate they were recorded at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from framepack.errors import MediaError
from framepack.media.buckets import Size

Frame = UInt8[np.ndarray, "height width 3"]

_LEAD = Fraction(1, 2)
"""Seconds before the first wanted frame that reading begins at the latest, for odd time stamps."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video's index says, nothing decoded.

    Attributes:
        size: (height, width) as stored.
        first: Time of the first frame in seconds.
        last: Time of the last one.
    """

    size: Size
    first: Fraction
    last: Fraction

    def num_frames(self, fps: float) -> int:
        """Frames at a constant rate."""
        return int((self.last - self.first) * Fraction(fps)) + 1


def probe_video(path: Path) -> VideoInfo:
    """Read a video's index.

    Raises:
        MediaError: It is no video, or empty.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            times = [
                packet.pts * stream.time_base
                for packet in container.demux(stream)
                if packet.pts is not None and stream.time_base is not None
            ]
            size = stream.codec_context.height, stream.codec_context.width
    except (av.FFmpegError, IndexError, OSError) as error:
        raise MediaError(f"cannot read {path} as a video: {error}") from error
    if not times:
        raise MediaError(f"{path} holds no video frames")
    return VideoInfo(size, min(times), max(times))


def read_frames(path: Path, fps: float, start: int, count: int) -> Iterator[Frame]:
    """Consecutive RGB frames of a video at a constant rate.

    Frame k is the recorded frame nearest to k / fps after the first one, so frames repeat or drop
    out where the rates differ.

    Args:
        path: The video.
        fps: Frames per second wanted.
        start: Number of the first frame, from 0.
        count: How many.

    Raises:
        MediaError: It cannot be decoded, or ends before.
    """
    info, rate = probe_video(path), Fraction(fps)
    wanted = (info.first + Fraction(number) / rate for number in range(start, start + count))
    given = 0
    try:
        with av.open(str(path)) as container:
            for frame in _nearest(_decoded(container, info.first + start / rate), wanted):
                given += 1
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise MediaError(f"decoding {path} failed: {error}") from error
    if given < count:
        raise MediaError(f"{path} has {start + given} frames at {fps:g} per second, not {count}")


def _decoded(
    container: av.container.InputContainer, begin: Fraction
) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Frames with their times, from the last key frame before a time on."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    base = stream.time_base or Fraction(1, 1)
    container.seek(int((begin - _LEAD) / base), stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.pts is not None:
            yield frame.pts * base, frame


def _nearest(
    frames: Iterator[tuple[Fraction, av.VideoFrame]], times: Iterator[Fraction]
) -> Iterator[av.VideoFrame]:
    """The frame nearest to each of some ascending times; ends half a gap after the last frame."""
    before = next(frames, None)
    after = next(frames, None)
    gap = after[0] - before[0] if before and after else Fraction(1)
    for time in times:
        while after is not None and abs(after[0] - time) < abs(before[0] - time):  # type: ignore[index]
            before, after = after, next(frames, None)
        if before is None or (after is None and time - before[0] > gap / 2):
            return
        yield before[1]
