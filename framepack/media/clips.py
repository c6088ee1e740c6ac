"""Finished frames become H.264 fragments, and fragments become one mp4, without encoding twice.

Frames leave in runs, one run a section, and not always in the order of time: the inverted order
finishes the end of the video first. So every run is encoded on its own, as a closed group of
pictures that carries its place on the video's time line, in a fragmented mp4 of two parts::

    [ftyp moov]  the init: what a player must know; the same bytes for all clips of a size
    [moof mdat]  the fragment: frames ``first_frame ..``, starting with an IDR picture

A clip plays by itself. The init of any clip followed by all fragments in the order of time plays as
the whole video (Media Source Extensions or plain concatenation), and `join_clips` copies the same
pictures into an mp4 with its index in front.

There are no B-frames, so decoding order is showing order and clips made in any order line up
exactly. The number of encoder threads is part of x264's arithmetic and therefore a constant; with
``cpu-independent`` the bytes do not depend on the kind of CPU either.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from jaxtyping import UInt8

from framepack.errors import MediaError

CRF = 16
"""Constant rate factor; the official demo's default (0 makes files many players refuse)."""

ENCODER_THREADS = 2
"""x264 gives other bytes with another number of threads, so it follows no machine."""

_X264_PARAMS = (
    f"threads={ENCODER_THREADS}:lookahead-threads=1:bframes=0:keyint=infinite:scenecut=0:open-gop=0"
    ":cpu-independent=1"
)
_SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True)
class Clip:
    """A run of frames as a self-contained fragmented mp4.

    Attributes:
        data: The file.
        init_bytes: Length of its init; ``data[init_bytes:]`` is the fragment.
        first_frame: Number of its first frame in the whole video, from 0.
        num_frames: How many frames it holds.
    """

    data: bytes
    init_bytes: int
    first_frame: int
    num_frames: int


def encode_clip(
    frames: UInt8[np.ndarray, "n height width 3"], first_frame: int, fps: int = 30
) -> Clip:
    """Encode a run of RGB frames: libx264, yuv420p, BT.709, one closed group of pictures.

    The same frames give the same bytes, on any machine with the same library versions.

    Args:
        frames: At least one frame; both sides even.
        first_frame: Number of the first one in the whole video; places the clip in time.
        fps: Frames per second of the video.

    Raises:
        MediaError: There is no frame, a side is odd, or the encoder refuses.
    """
    if len(frames) == 0 or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise MediaError(f"cannot encode frames of shape {frames.shape}: empty, or an odd side")
    buffer = io.BytesIO()
    try:
        _write_fragment(buffer, frames, first_frame, fps)
    except av.FFmpegError as error:
        raise MediaError(f"encoding {len(frames)} frames failed: {error}") from error
    data = buffer.getvalue()
    init_bytes = next(offset for kind, offset, _ in top_level_boxes(data) if kind == "moof")
    return Clip(data, init_bytes, first_frame, len(frames))


def _write_fragment(
    buffer: io.BytesIO, frames: UInt8[np.ndarray, "n height width 3"], first_frame: int, fps: int
) -> None:
    options = {
        # One fragment, addressed by its own time (frag_discont) and not shifted to zero, with
        # no index of fragments behind it: what follows is the next clip's fragment.
        "movflags": "empty_moov+default_base_moof+frag_discont+skip_trailer",
        "avoid_negative_ts": "disabled",
        "fragment_index": str(first_frame + 1),
    }
    with av.open(buffer, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fps)
        context = stream.codec_context
        context.height, context.width = frames.shape[1:3]
        context.pix_fmt = "yuv420p"
        context.thread_count = ENCODER_THREADS
        context.options = {"crf": str(CRF), "x264-params": _X264_PARAMS}
        context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        for number, pixels in enumerate(frames, first_frame):
            container.mux(stream.encode(_yuv(pixels, number, fps)))
        container.mux(stream.encode(None))


def _yuv(pixels: UInt8[np.ndarray, "height width 3"], number: int, fps: int) -> av.VideoFrame:
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame = rgb.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=_SCALER,
        threads=1,
    )
    frame.pts, frame.time_base = number, Fraction(1, fps)
    return frame


def join_clips(clips: Iterable[Path | io.BufferedIOBase], output: Path, fps: int = 30) -> int:
    """Copy the pictures of all clips, in the order of time, into one mp4 with its index in front.

    Nothing is encoded again and one clip is open at a time, so ``clips`` may be a generator that
    fetches them. ``output`` appears only when it is complete.

    Returns:
        The number of frames.

    Raises:
        MediaError: A clip cannot be read, does not start where the one before it ended, or was
            encoded with other parameters; or there is none.
    """
    handle, name = tempfile.mkstemp(prefix=f".{output.name}.", suffix=".mp4", dir=output.parent)
    os.close(handle)
    partial = Path(name)
    try:
        frames = _remux(clips, partial, fps)
        partial.chmod(0o644)
        partial.replace(output)
    except av.FFmpegError as error:
        raise MediaError(f"joining clips into {output.name} failed: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return frames


def _remux(clips: Iterable[Path | io.BufferedIOBase], output: Path, fps: int) -> int:
    frame, parameters = 0, b""
    with av.open(str(output), "w", format="mp4", options={"movflags": "faststart"}) as container:
        target = None
        for clip in clips:
            with av.open(str(clip) if isinstance(clip, Path) else clip, format="mp4") as source:
                stream = source.streams.video[0]
                if target is None:
                    target = container.add_stream_from_template(stream)
                    parameters = stream.codec_context.extradata
                if stream.codec_context.extradata != parameters:
                    raise MediaError(f"the clip at frame {frame} has other coding parameters")
                for packet in _packets(source, frame, fps):
                    packet.stream = target
                    container.mux(packet)
                    frame += 1
        if target is None:
            raise MediaError("there is no clip to join")
    return frame


def _packets(source: av.container.InputContainer, frame: int, fps: int) -> Iterator[av.Packet]:
    """A clip's packets, stamped with frame numbers; the clip must say the same of itself."""
    stream = source.streams.video[0]
    for packet in source.demux(stream):
        if packet.dts is None:  # the demuxer's end mark
            continue
        stated = packet.dts * stream.time_base * fps
        if stated != frame or packet.pts != packet.dts:
            raise MediaError(f"a clip holds frame {stated} where frame {frame} was expected")
        packet.time_base = Fraction(1, fps)
        packet.pts = packet.dts = frame
        packet.duration = 1
        yield packet
        frame += 1


def top_level_boxes(data: bytes) -> Iterator[tuple[str, int, int]]:
    """The outermost boxes of an mp4 file: (four letters, offset, size in bytes)."""
    offset = 0
    while offset + 8 <= len(data):
        size = int.from_bytes(data[offset : offset + 4])
        if size < 8:  # 0 = "to the end", 1 = 64-bit size: neither occurs in what we write
            raise MediaError(f"box of {size} bytes at offset {offset}")
        yield data[offset + 4 : offset + 8].decode("latin-1"), offset, size
        offset += size
