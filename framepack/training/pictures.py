"""Pictures with prompts, to make previews of: a clip source whose clips have one frame.

A JSONL file names them, with paths beside itself::

    {"image": "garden.jpg", "prompt": "the girl dances"}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from framepack.errors import InvalidRequest
from framepack.media.buckets import Size, nearest_bucket
from framepack.media.images import fit_image, open_image
from framepack.models.loading import file_sha256
from framepack.training.sources import SourceClip


@dataclass(frozen=True)
class Pictures:
    """A `framepack.training.sources.ClipSource` over picture files.

    Attributes:
        prompts: Path of the picture, prompt.
        buckets: Sizes that the preset makes.
    """

    prompts: Sequence[tuple[Path, str]]
    buckets: tuple[Size, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def key(self, index: int) -> str:
        """Content and prompt."""
        path, prompt = self.prompts[index]
        return f"picture {file_sha256(path)} {json.dumps([self.buckets, prompt])}"

    def seed(self, index: int) -> int:
        """Follows from the key."""
        return int.from_bytes(hashlib.sha256(self.key(index).encode()).digest()[:4])

    def clip(self, index: int) -> SourceClip:
        """The picture, fitted to its bucket, as a video of one frame. Raises InvalidRequest."""
        path, prompt = self.prompts[index]
        image = open_image(path)
        size = nearest_bucket((image.shape[0], image.shape[1]), self.buckets)
        return SourceClip(np.stack([fit_image(image, size)]), prompt)


def read_prompts(path: Path, buckets: tuple[Size, ...]) -> Pictures:
    """Read a JSONL file.

    Raises:
        InvalidRequest: It cannot be read, or a line states something else or an absent file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InvalidRequest("previews.prompts", f"cannot read {path}: {error}") from error
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            stated = json.loads(line)
            picture, prompt = path.parent / stated["image"], str(stated["prompt"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                "previews.prompts",
                f'{path}:{number} is not {{"image": ..., "prompt": ...}}: {error!r}',
            ) from None
        if not picture.is_file():
            raise InvalidRequest("previews.prompts", f"{path}:{number}: there is no file {picture}")
        prompts.append((picture, prompt))
    if not prompts:
        raise InvalidRequest("previews.prompts", f"{path} has no lines")
    return Pictures(prompts, buckets)
