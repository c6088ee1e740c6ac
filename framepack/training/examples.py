"""Clips to training examples: the same sections, context and positions as in generation.

An example is one section of a video of so many sections, in some order, at the moment when that
order would sample it: frames of sections sampled earlier are in the history, all others are zeros.
Sections come from `framepack.generation.orders`, levels from `context_levels`: the very functions
that generation calls. Only the latents' origin differs, the truth instead of the model's own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NoReturn

import torch
from torch import Tensor

from framepack.drift.codebook import Codebook
from framepack.errors import InvalidRequest
from framepack.generation.context import NoisyContext, context_levels
from framepack.generation.history import History, sections_needed
from framepack.generation.orders import ORDERS, Section, without_picture
from framepack.models.base import LevelLatents, TextCondition
from framepack.packing.schedule import PackingSchedule, Tail, parse_schedule
from framepack.training.cache import CachedClip, CachedPrompt
from framepack.training.histories import HistoryDraw, HistorySettings
from framepack.types import Latents


@dataclass(frozen=True)
class Arm:
    """One ingredient of the mixture of orders.

    Attributes:
        name: For the log.
        order: Key of `ORDERS`.
        share: Of the batches, relative to the other arms' shares.
        schedule: Packing schedule; the order's own if None.
        sections: Least and most sections of the videos it pretends to make.
        pick: ``any`` section, or only the ``first`` in the order of sampling, which sees least.
        history: What happens to what it sees.
        without_picture: Share of examples of videos that begin with no picture (text-to-video).

    Raises:
        InvalidRequest: There is no such order, or it cannot fill the schedule's context; the
            schedule wants what training does not do; numbers make no sense.
    """

    name: str
    order: str
    share: float
    schedule: str | None = None
    sections: tuple[int, int] = (1, 1000)
    pick: Literal["any", "first"] = "any"
    history: HistorySettings = field(default_factory=HistorySettings)
    without_picture: float = 0.0

    def __post_init__(self) -> None:
        least, most = self.sections
        if self.order not in ORDERS:
            self._refuse(f"no order {self.order!r}; choose from {', '.join(ORDERS)}")
        if not 1 <= least <= most or not 0 < self.share < math.inf:
            self._refuse(
                f"sections go from 1 on and up, not {least} .. {most}, and shares are above 0, not "
                f"{self.share:g}"
            )
        if not 0.0 <= self.without_picture <= 1.0:
            self._refuse(f"without_picture is a share, 0 to 1, not {self.without_picture:g}")
        if self.without_picture and ORDERS[self.order].needs_picture:
            self._refuse(f"the {self.order} order {ORDERS[self.order].needs_picture}")
        schedule = self.packing
        if schedule.discretised and self.history.change != "codebook":
            self._refuse(f"{schedule} discretises history: set history.change to codebook")
        self.plan(least)

    def _refuse(self, detail: str) -> NoReturn:
        raise InvalidRequest(f"arms.{self.name}", detail)

    @property
    def packing(self) -> PackingSchedule:
        """The schedule, parsed."""
        return parse_schedule(self.schedule or ORDERS[self.order].default_schedule)

    @property
    def keeps_tail(self) -> bool:
        """Whether a section sees the more the more has been made, in more tokens."""
        sides = (*self.packing.earlier, *self.packing.later)
        return any(isinstance(e, Tail) and e.kind != "delete" for e in sides)

    def plan(self, num_sections: int, *, pictured: bool = True) -> tuple[Section, ...]:
        """All sections of a video, in the order of sampling."""
        return _plan(self.order, self.schedule, num_sections, pictured)


@lru_cache(maxsize=256)
def _plan(
    order: str, schedule: str | None, num_sections: int, pictured: bool
) -> tuple[Section, ...]:
    chosen = ORDERS[order]
    made = chosen.sections(num_sections, parse_schedule(schedule or chosen.default_schedule))
    return made if pictured else without_picture(made)


@dataclass(frozen=True)
class Example:
    """One section with its context.

    Attributes:
        section: Of the order.
        levels: Its context, batch size 1.
        target: (1, c, window, h, w) what to generate.
        weight: (1, 1, window, h, w) of the squared error; mean near one over a clip.
        clip: Where it was cut from.
        captioned: Whether the model is told the caption.
        pictured: Whether it is shown the picture's image states.
    """

    section: Section
    levels: list[LevelLatents]
    target: Latents
    weight: Tensor
    clip: CachedClip
    captioned: bool = True
    pictured: bool = True


def cut(
    clip: CachedClip,
    sections: Sequence[Section],
    index: int,
    *,
    absent: bool = False,
    pictured: bool = True,
    codebook: Codebook | None = None,
) -> Example:
    """The example of one section of a video that is the clip's beginning.

    With a picture, frame n of the video is latent frame n of the clip, the picture being the
    clip's first. Without one the video begins with frame 1, which then is the clip's latent frame
    0: like every beginning, one pixel frame to the codec.

    Args:
        clip: To cut from.
        sections: Of the video, in the order of sampling.
        index: Of the section in it.
        absent: Whether its history is, but for the start picture.
        pictured: Whether the video begins with a start picture; ``sections`` must agree.
        codebook: Discretises history.
    """
    section = sections[index]
    history = History(clip.start if pictured else torch.zeros_like(clip.start))
    for earlier in () if absent else sections_needed(section, sections):
        history.add(earlier.frames, clip.frames(_in_clip(earlier.frames, pictured)))
    places = _in_clip(section.frames, pictured)
    return Example(
        section=section,
        levels=context_levels(section, history, codebook),
        target=clip.frames(places),
        weight=clip.weights(places),
        clip=clip,
        pictured=pictured,
    )


def _in_clip(frames: Sequence[int], pictured: bool) -> Sequence[int]:
    return frames if pictured else [frame - 1 for frame in frames]


@dataclass(frozen=True)
class Choice:
    """An example that was drawn and not cut yet.

    Attributes:
        arm: It belongs to.
        clip: To cut from; ``sections`` and ``index`` as in `cut`.
        captioned: Whether the model is told the caption.
        history: Drawn for what happens to its history.
        pictured: Whether its video begins with a start picture.
    """

    arm: Arm
    clip: CachedClip
    sections: Sequence[Section]
    index: int
    captioned: bool
    history: HistoryDraw
    pictured: bool = True

    @property
    def target_shape(self) -> tuple[int, int, int, int]:
        """(c, window, h, w)."""
        channels, _, height, width = self.clip.latents.shape
        return channels, len(self.sections[self.index].frames), height, width

    def cut(self, target_level: float, codebooks: Mapping[int, Codebook]) -> Example:
        """The example.

        Args:
            target_level: Noise level of its target.
            codebooks: By number of entries.
        """
        settings, drawn = self.arm.history, self.history
        example = cut(
            self.clip,
            self.sections,
            self.index,
            absent=drawn.absent,
            pictured=self.pictured,
            codebook=codebooks[settings.entries] if settings.change == "codebook" else None,
        )
        example = replace(example, captioned=self.captioned)
        if settings.change != "noise":
            return example
        generator = torch.Generator().manual_seed(drawn.seed)
        noisy = NoisyContext(example.levels, settings.mode, drawn.sigma, generator)
        return replace(example, levels=noisy.at(target_level))


def same_size(clips: Sequence[CachedClip], rng: random.Random) -> Sequence[CachedClip]:
    """The clips of one latent size, which a batch must share; a size is as likely as it is common.

    Draws nothing where there is one size.
    """
    by_size: dict[tuple[int, ...], list[CachedClip]] = {}
    for clip in clips:
        by_size.setdefault(tuple(clip.latents.shape[2:]), []).append(clip)
    if len(by_size) == 1:
        return clips
    (chosen,) = rng.choices(list(by_size.values()), [len(group) for group in by_size.values()])
    return chosen


def choose(arm: Arm, clips: Sequence[CachedClip], rng: random.Random, dropout: float) -> Choice:
    """Draw an example of an arm.

    Args:
        arm: Which order and which of its sections.
        clips: To choose from.
        rng: Of the step.
        dropout: Share of examples without caption.
    """
    clip = rng.choice(clips)
    least, most = arm.sections
    window = len(arm.plan(least)[0].frames)
    possible = min(most, (clip.num_frames - 1) // window)
    count = rng.randint(least, max(least, possible))
    # Draws nothing where there is nothing to draw: the same seed is the same run as before.
    pictured = not arm.without_picture or rng.random() >= arm.without_picture
    sections = arm.plan(count, pictured=pictured)
    index = 0 if arm.pick == "first" else rng.randrange(len(sections))
    captioned = rng.random() >= dropout
    drawn = _draw_history(arm.history, rng)
    return Choice(arm, clip, sections, index, captioned, drawn, pictured)


def choose_batch(
    arm: Arm, clips: Sequence[CachedClip], rng: random.Random, dropout: float, count: int
) -> list[Choice]:
    """Draw so many examples whose sequences have one layout.

    Those of an arm that keeps its tail are the same section of videos of the same length, all with
    a picture or all without.
    """
    if not arm.keeps_tail:
        return [choose(arm, clips, rng, dropout) for _ in range(count)]
    shortest = min(clips, key=lambda clip: clip.num_frames)
    shared = choose(arm, [shortest], rng, dropout)
    return [
        replace(
            choose(arm, clips, rng, dropout),
            sections=shared.sections,
            index=shared.index,
            pictured=shared.pictured,
        )
        for _ in range(count)
    ]


def _draw_history(settings: HistorySettings, rng: random.Random) -> HistoryDraw:
    """Draws nothing that the settings do not use: the same seed is the same run as before."""
    absent = settings.absent > 0 and rng.random() < settings.absent
    if settings.change != "noise":
        return HistoryDraw(absent)
    sigma = rng.random() if settings.sigma is None else settings.sigma
    return HistoryDraw(absent, sigma, rng.getrandbits(63))


@dataclass(frozen=True)
class Batch:
    """Examples of one arm, whose levels therefore have the same shapes.

    Attributes:
        levels: As in `Example`, for all at once.
        positions: (b, window) RoPE positions of the targets.
        target: (b, c, window, h, w).
        weight: (b, 1, window, h, w).
        condition: Text and image conditioning.
    """

    levels: list[LevelLatents]
    positions: Tensor
    target: Latents
    weight: Tensor
    condition: TextCondition


def collate(examples: Sequence[Example], uncaptioned: CachedPrompt) -> Batch:
    """Stack examples; text is padded to the longest and masked."""
    columns = zip(*(example.levels for example in examples), strict=True)
    prompts = [e.clip.prompt if e.captioned else uncaptioned for e in examples]
    text, mask = _padded([prompt.text for prompt in prompts])
    return Batch(
        levels=[
            replace(
                column[0],
                latents=torch.cat([level.latents for level in column]),
                positions=torch.cat([level.positions for level in column]),
            )
            for column in columns
        ],
        positions=torch.tensor([example.section.positions for example in examples]),
        target=torch.cat([example.target for example in examples]),
        weight=torch.cat([example.weight for example in examples]),
        condition=TextCondition(
            text=text,
            pooled=torch.cat([prompt.pooled for prompt in prompts]),
            image=torch.cat(
                [e.clip.image if e.pictured else torch.zeros_like(e.clip.image) for e in examples]
            ),
            mask=mask,
        ),
    )


def uncaptioned_batch(batch: Batch, uncaptioned: CachedPrompt) -> Batch:
    """The same examples without their captions."""
    count = len(batch.target)
    condition = replace(
        batch.condition,
        text=uncaptioned.text.expand(count, -1, -1),
        pooled=uncaptioned.pooled.expand(count, -1),
        mask=None,
    )
    return replace(batch, condition=condition)


def _padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack (1, l, d) states of different lengths; no mask if they are all as long."""
    longest = max(text.shape[1] for text in texts)
    stacked = texts[0].new_zeros(len(texts), longest, texts[0].shape[2])
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        stacked[row, : text.shape[1]] = text[0]
        mask[row, : text.shape[1]] = True
    return stacked, None if bool(mask.all()) else mask
