"""A video that is still being made, as an HLS playlist (RFC 8216) that grows with its clips.

The clips are fragments that share their init and carry their place in time, so they are segments
as they are: the init is a byte range of the first one, each segment the rest of its clip. Listed is
what can be played from the beginning without a gap: with the forward orders one more clip a
section, with the inverted order nothing before the first section is there.

A segment's URI must not change once it was listed, and signed links do: segments lead through the
gateway, which redirects to the link of the moment.
"""

from __future__ import annotations

import math

from service.contract.job import Clip, Job, JobSpec

MEDIA_TYPE = "application/vnd.apple.mpegurl"


def playable(job: Job) -> list[Clip]:
    """The clips from the first frame on without a gap, in the order of time."""
    by_frame = {clip.artifact.first_frame: clip for clip in job.clips}
    found: list[Clip] = []
    frame = 0
    while (clip := by_frame.pop(frame, None)) is not None:
        found.append(clip)
        frame += clip.artifact.num_frames or 0
    return found


def playlist(spec: JobSpec, job: Job, query: str) -> str:
    """The playlist as it is now.

    Args:
        spec: The job as accepted.
        job: Its state.
        query: What the URIs of segments end with, so that a player is let in.
    """
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        f"#EXT-X-TARGETDURATION:{_longest_segment(spec)}",
        "#EXT-X-MEDIA-SEQUENCE:0",
    ]
    clips = playable(job)
    if clips:
        uri = _uri(clips[0], query)
        lines.append(f'#EXT-X-MAP:URI="{uri}",BYTERANGE="{clips[0].artifact.init_bytes or 0}@0"')
    for clip in clips:
        init, size = clip.artifact.init_bytes or 0, clip.artifact.size_bytes
        lines += [
            f"#EXTINF:{(clip.artifact.num_frames or 0) / spec.fps:.6f},",
            f"#EXT-X-BYTERANGE:{size - init}@{init}",
            _uri(clip, query),
        ]
    if job.status.terminal:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join([*lines, ""])


def _uri(clip: Clip, query: str) -> str:
    return f"clips/{clip.section}.mp4{query}"


def _longest_segment(spec: JobSpec) -> int:
    """Seconds that no clip exceeds. It has to be told before there is any clip.

    A clip holds a section's frames and those that waited for it at the border, which are fewer.
    """
    return math.ceil(2 * spec.num_frames / spec.num_sections / spec.fps)
