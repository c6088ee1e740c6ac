"""Training clips from video files: what is cut from each, and which caption it has.

A folder holds videos with their captions in text files of the same name; a JSONL file names both::

    {"video": "cats/one.mp4", "caption": "a cat jumps onto a wall"}

Nothing is left out in silence: a video without caption, or too short for what is to be cut, is an
error that names it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from framepack.errors import InvalidRequest
from framepack.media.buckets import Size, nearest_bucket
from framepack.media.images import fit_image
from framepack.media.videos import probe_video, read_frames
from framepack.models.loading import file_sha256
from framepack.training.sources import SourceClip

Extract = Literal["head", "middle", "uniform", "chunks", "slide", "full"]

FILES_VERSION = 1
"""Raised when the same settings would cut another clip."""

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")


@dataclass(frozen=True)
class FileData:
    """Clips of video files.

    Attributes:
        path: A folder, searched with its subfolders, or a JSONL file with paths beside itself.
        held_out: Videos to measure on; chosen by content, so more videos do not reshuffle them.
        latent_frames: Of each clip, the start frame included; with ``full`` the most.
        fps: Frames per second that videos are resampled to.
        extract: What is cut from a video: its ``head`` or ``middle``; ``count`` clips at
            ``uniform`` distances; all ``chunks`` side by side; every clip that begins a multiple of
            ``stride`` (``slide``); or one clip as long as it is (``full``).
        count: See there.
        stride: Pixel frames, see there.
    """

    path: str
    held_out: int = 1
    latent_frames: int = 37
    fps: float = 30.0
    extract: Extract = "head"
    count: int = 4
    stride: int = 36

    def __post_init__(self) -> None:
        for name, least in (("held_out", 1), ("latent_frames", 2), ("count", 1), ("stride", 1)):
            if getattr(self, name) < least:
                raise InvalidRequest(f"data.{name}", f"must be at least {least}")
        if not 0 < self.fps < math.inf:
            raise InvalidRequest("data.fps", "must be greater than 0")

    @property
    def pixel_frames(self) -> int:
        """Of a clip."""
        return 1 + 4 * (self.latent_frames - 1)

    def starts(self, available: int) -> list[int]:
        """Where clips begin in a video of so many frames; none if it is too short."""
        room = available - self.pixel_frames
        if self.extract == "full":
            return [0] if available >= 5 else []
        if room < 0:
            return []
        if self.extract == "uniform":
            return sorted({round(share * room) for share in np.linspace(0, 1, self.count)})
        step = {"chunks": self.pixel_frames, "slide": self.stride}.get(self.extract)
        if step is not None:
            return list(range(0, room + 1, step))
        return [room // 2 if self.extract == "middle" else 0]

    def length(self, available: int) -> int:
        """Pixel frames of a clip from a video of so many."""
        return min(self.pixel_frames, 1 + 4 * ((available - 1) // 4))


@dataclass(frozen=True)
class FileClip:
    """A clip to be read.

    Attributes:
        path: The video.
        sha256: Of its content.
        caption: Of the clip.
        start: First frame, counted at the data's rate.
        length: Frames.
        size: (height, width) it is scaled and cropped to.
    """

    path: Path
    sha256: str
    caption: str
    start: int
    length: int
    size: Size


@dataclass(frozen=True)
class FileClips:
    """A `framepack.training.sources.ClipSource` over files."""

    clips: Sequence[FileClip]
    fps: float

    def __len__(self) -> int:
        return len(self.clips)

    def key(self, index: int) -> str:
        """Content, caption and cut; not the path."""
        clip = self.clips[index]
        cut = (self.fps, clip.start, clip.length, clip.size, clip.caption)
        return f"file {FILES_VERSION} {clip.sha256} {json.dumps(cut)}"

    def seed(self, index: int) -> int:
        """Follows from the key."""
        return int.from_bytes(hashlib.sha256(self.key(index).encode()).digest()[:4])

    def clip(self, index: int) -> SourceClip:
        """Decode, resample and fit a clip. Raises MediaError."""
        clip = self.clips[index]
        frames = read_frames(clip.path, self.fps, clip.start, clip.length)
        return SourceClip(np.stack([fit_image(f, clip.size) for f in frames]), clip.caption)


def find_clips(data: FileData, buckets: tuple[Size, ...], hashes: Path) -> tuple[FileClips, ...]:
    """The clips to train on and those to measure on.

    Args:
        data: Where they lie and what to cut.
        buckets: Sizes that the preset makes.
        hashes: Folder that remembers files' hashes.

    Raises:
        InvalidRequest: A caption is missing, a video too short, or there are too few.
        MediaError: A file is no video.
    """
    videos: dict[Path, tuple[str, str]] = {}
    for path, caption in _captioned(Path(data.path)):
        if path in videos:
            raise InvalidRequest("data", f"{path} is named twice in {data.path}")
        videos[path] = (file_sha256(path, hashes), caption)
    by_content = sorted(videos, key=lambda path: videos[path][0])
    if len(by_content) <= data.held_out:
        raise InvalidRequest(
            "data",
            f"{len(by_content)} videos in {data.path}, of which {data.held_out} are held out: add "
            "videos, or hold out fewer",
        )
    held_out = set(by_content[: data.held_out])
    parts: tuple[list[FileClip], list[FileClip]] = ([], [])
    for path, (digest, caption) in videos.items():
        parts[path in held_out].extend(_cut(path, digest, caption, data, buckets))
    return tuple(FileClips(clips, data.fps) for clips in parts)


def _cut(
    path: Path, digest: str, caption: str, data: FileData, buckets: tuple[Size, ...]
) -> Iterator[FileClip]:
    info = probe_video(path)
    available = info.num_frames(data.fps)
    starts = data.starts(available)
    if not starts:
        raise InvalidRequest(
            "data",
            f"{path} has {available} frames at {data.fps:g} per second, fewer than the "
            f"{data.pixel_frames} of a clip: lower latent_frames, write 'extract: full', or take "
            "it away",
        )
    size = nearest_bucket(info.size, buckets)
    for start in starts:
        yield FileClip(path, digest, caption, start, data.length(available), size)


def _captioned(path: Path) -> list[tuple[Path, str]]:
    """Videos and captions of a folder or a JSONL file, by name."""
    if path.is_dir():
        videos = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        return [(video, _caption_beside(video)) for video in videos]
    if path.suffix == ".jsonl" and path.is_file():
        lines = _read(path).splitlines()
        return [_line(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    raise InvalidRequest("data.path", f"{path} is neither a folder nor a .jsonl file")


def _caption_beside(video: Path) -> str:
    text = video.with_suffix(".txt")
    if not text.is_file():
        raise InvalidRequest("data", f"{video} has no caption: write it to {text.name} beside it")
    caption = _read(text).strip()
    if not caption:
        raise InvalidRequest("data", f"{text} is empty: write the caption of {video.name} to it")
    return caption


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InvalidRequest("data", f"cannot read {path}: {error}") from error


def _line(path: Path, number: int, line: str) -> tuple[Path, str]:
    try:
        stated = json.loads(line)
        video, caption = path.parent / stated["video"], stated["caption"].strip()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            "data", f'{path}:{number} is not {{"video": ..., "caption": ...}}: {error!r}'
        ) from None
    if not video.is_file():
        raise InvalidRequest("data", f"{path}:{number}: there is no file {video}")
    if not caption:
        raise InvalidRequest("data", f"{path}:{number}: the caption is empty")
    return video, caption
