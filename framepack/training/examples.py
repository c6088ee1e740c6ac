"""Clips to training examples: the same sections, context and positions as in generation.

An example is one section of a video of so many sections, in some order, at the moment when that
order would sample it: frames of sections sampled earlier are in the history, all others are zeros.
Sections come from `framepack.generation.orders`, levels from `context_levels`: the very functions
that generation calls. Only the latents' origin differs, the truth instead of the model's own.
"""

from __future__ import annotations

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
from framepack.generation.orders import ORDERS, Section
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

    def __post_init__(self) -> None:
        least, most = self.sections
        if self.order not in ORDERS:
            self._refuse(f"no order {self.order!r}; choose from {', '.join(ORDERS)}")
        if not 1 <= least <= most or self.share <= 0:
            self._refuse(
                f"sections go from 1 on and up, not {least} .. {most}, and shares are above 0, not "
                f"{self.share:g}"
            )
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

    def plan(self, num_sections: int) -> tuple[Section, ...]:
        """All sections of a video, in the order of sampling."""
        return _plan(self.order, self.schedule, num_sections)


@lru_cache(maxsize=256)
def _plan(order: str, schedule: str | None, num_sections: int) -> tuple[Section, ...]:
    chosen = ORDERS[order]
    return chosen.sections(num_sections, parse_schedule(schedule or chosen.default_schedule))


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
    """

    section: Section
    levels: list[LevelLatents]
    target: Latents
    weight: Tensor
    clip: CachedClip
    captioned: bool = True


def cut(
    clip: CachedClip,
    sections: Sequence[Section],
    index: int,
    *,
    captioned: bool = True,
    absent: bool = False,
    codebook: Codebook | None = None,
) -> Example:
    """The example of one section of a video that is the clip's beginning.

    Args:
        clip: To cut from.
        sections: Of the video, in the order of sampling.
        index: Of the section in it.
        captioned: Whether the model is told the caption.
        absent: Whether its history is, but for the start picture.
        codebook: Discretises history.
    """
    section = sections[index]
    history = History(clip.start)
    for earlier in () if absent else sections_needed(section, sections):
        history.add(earlier.frames, clip.frames(earlier.frames))
    return Example(
        section=section,
        levels=context_levels(section, history, codebook),
        target=clip.frames(section.frames),
        weight=clip.weights(section.frames),
        clip=clip,
        captioned=captioned,
    )


@dataclass(frozen=True)
class Choice:
    """An example that was drawn and not cut yet.

    Attributes:
        arm: It belongs to.
        clip: To cut from; ``sections``, ``index`` and ``captioned`` as in `cut`.
        history: Drawn for what happens to its history.
    """

    arm: Arm
    clip: CachedClip
    sections: Sequence[Section]
    index: int
    captioned: bool
    history: HistoryDraw

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
            captioned=self.captioned,
            absent=drawn.absent,
            codebook=codebooks[settings.entries] if settings.change == "codebook" else None,
        )
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
    sections = arm.plan(rng.randint(least, max(least, possible)))
    index = 0 if arm.pick == "first" else rng.randrange(len(sections))
    captioned = rng.random() >= dropout
    return Choice(arm, clip, sections, index, captioned, _draw_history(arm.history, rng))


def choose_batch(
    arm: Arm, clips: Sequence[CachedClip], rng: random.Random, dropout: float, count: int
) -> list[Choice]:
    """Draw so many examples whose sequences have one layout.

    Those of an arm that keeps its tail are the same section of videos of the same length.
    """
    if not arm.keeps_tail:
        return [choose(arm, clips, rng, dropout) for _ in range(count)]
    shortest = min(clips, key=lambda clip: clip.num_frames)
    shared = choose(arm, [shortest], rng, dropout)
    return [
        replace(choose(arm, clips, rng, dropout), sections=shared.sections, index=shared.index)
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
            image=torch.cat([example.clip.image for example in examples]),
            mask=mask,
        ),
    )


def _padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack (1, l, d) states of different lengths; no mask if they are all as long."""
    longest = max(text.shape[1] for text in texts)
    stacked = texts[0].new_zeros(len(texts), longest, texts[0].shape[2])
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        stacked[row, : text.shape[1]] = text[0]
        mask[row, : text.shape[1]] = True
    return stacked, None if bool(mask.all()) else mask
