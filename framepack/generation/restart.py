"""Begin a section anew from the last picture made (repeating image-to-video, Table 2).

The alternative without memory: the last pixel frame of the section before is encoded as if it had
been given, and becomes frame 0 of a history that holds nothing else. The image encoder's states
stay those of the picture that was given: a job is conditioned once.
"""

from __future__ import annotations

from framepack.generation.history import History
from framepack.generation.orders import Section
from framepack.generation.seeds import start_generator
from framepack.generation.stitch import to_uint8
from framepack.models.codec import SectionCodec


def restarted(section: Section, history: History, codec: SectionCodec, seed: int) -> History:
    """The history a section is to see: the one given, unless the section begins anew.

    The picture is decoded from the codec's last window of the section before, alone, so it is a
    function of that section's latents and nothing earlier.

    Args:
        section: To be sampled.
        history: Holds the frames of `frames_needed`.
        codec: Of the preset.
        seed: The job's.
    """
    if not section.restart:
        return history
    window = history.frames(section.restart[-codec.tiling.window :])
    (picture,) = to_uint8(codec.decode_window(window)[:, :, -1:])
    return History(codec.encode_image(picture, start_generator(seed)))
