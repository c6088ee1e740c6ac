"""Floating point operations of one evaluation of a packed transformer: the numerator of MFU.

Counted from the layout and the number of tokens, in closed form: on the host, in microseconds, and
the same whatever kernels run. Only products of matrices count, two operations for each
multiply-add, as is usual for model-FLOP utilisation (Chowdhery et al., arXiv 2204.02311, appendix
B); what is computed once a section or a job (text, patches, modulations) is left out. It is what
the *model* needs: work that an implementation repeats or wastes does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.wan import PackedWan, WanConfig
from framepack.packing.schedule import BASE_KERNEL


@dataclass(frozen=True)
class StepTokens:
    """Tokens of one evaluation.

    Attributes:
        target: Of the section's own frames.
        history: Of the packed context.
        text: Of everything that text and image encoders contribute.
    """

    target: int
    history: int
    text: int


def step_flops(model: Any, tokens: StepTokens) -> int:
    """Operations of one evaluation of all blocks and the output; 0 for a model not known here."""
    for kind, count in _COUNTS.items():
        if isinstance(model, kind):
            return count(model.config, tokens)
    return 0


def _hunyuan_video(config: HunyuanVideoConfig, tokens: StepTokens) -> int:
    """Dual and single blocks have the same matrices for each token of their streams."""
    width, hidden = config.width, config.hidden
    joint = tokens.target + tokens.history + tokens.text
    whole = config.num_layers + config.num_single_layers - 1
    block = _block(joint, joint, width, hidden)
    last = _block(joint, tokens.target, width, hidden)  # computes what is read, from all it sees
    return whole * block + last + _output(tokens.target, width, config.out_channels)


def _wan(config: WanConfig, tokens: StepTokens) -> int:
    """Self-attention as above, then cross-attention to text, whose states each step projects."""
    width, hidden = config.width, config.ffn_dim
    seen = tokens.target + tokens.history
    reading = tokens.target if config.guidance_cross_attn else seen
    block = _block(seen, seen, width, hidden) + _cross(reading, tokens.text, width)
    last = _block(seen, tokens.target, width, hidden) + _cross(tokens.target, tokens.text, width)
    output = _output(tokens.target, width, config.out_channels)
    return (config.num_layers - 1) * block + last + output


def _block(seen: int, read: int, width: int, hidden: int) -> int:
    keys_values = 2 * seen * 2 * width**2
    queries_out_mlp = 2 * read * (2 * width**2 + 2 * width * hidden)
    return keys_values + queries_out_mlp + 4 * read * seen * width


def _cross(reading: int, text: int, width: int) -> int:
    return 2 * (reading + text) * 2 * width**2 + 4 * reading * text * width


def _output(target: int, width: int, channels: int) -> int:
    return 2 * target * width * channels * BASE_KERNEL.volume


_COUNTS: Mapping[type[Any], Callable[[Any, StepTokens], int]] = {
    PackedHunyuanVideo: _hunyuan_video,
    PackedWan: _wan,
}
