"""One job on several devices: the sequence is split between processes (Ulysses attention).

Every process holds the whole model and a share of the tokens. Everything but attention works token
by token; for attention tokens and heads change places (DeepSpeed-Ulysses, Jacobs et al. 2023): each
process sees the whole sequence for its share of the heads, and gives the results back. Shares need
not be equal, so no size of video needs padding and attention stays without a mask; only the heads
(24 in the released models) must divide.

All processes make the same calls with the same inputs and get the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Complex
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.models.attention import Heads, attend
from framepack.types import JointMask, Phases, ReadTokens, TextTokens, Tokens


@dataclass(frozen=True)
class Shares:
    """Which part of a sequence each process holds, in the order of ranks.

    Attributes:
        image: Tokens of the image stream.
        text: Tokens of the text stream.
        rank: Of this process.
    """

    image: tuple[int, ...]
    text: tuple[int, ...]
    rank: int

    @classmethod
    def of(cls, image: int, text: int, rank: int, count: int) -> Shares:
        """As even as whole tokens allow."""
        return cls(_even(image, count), _even(text, count), rank)

    @property
    def joint(self) -> list[int]:
        """Tokens of both streams."""
        return [i + t for i, t in zip(self.image, self.text, strict=True)]

    def mine(self, sizes: Sequence[int]) -> slice:
        """This process's part of a stream."""
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])


def _even(total: int, count: int) -> tuple[int, ...]:
    return tuple(total // count + (rank < total % count) for rank in range(count))


class SequenceParallel:
    """Splits a model's sequence between the processes of a group, and is its attention."""

    def __init__(self, heads: int, group: dist.ProcessGroup | None = None) -> None:
        """Join the group's processes, which all do the same.

        Args:
            heads: Of the model.
            group: Default: all processes.

        Raises:
            InvalidRequest: The heads cannot be shared out evenly.
        """
        self._group = group
        self.rank, self.count = dist.get_rank(group), dist.get_world_size(group)
        if heads % self.count:
            possible = [n for n in range(1, heads + 1) if heads % n == 0]
            raise InvalidRequest(
                "processes", f"{heads} heads go to {possible} processes, not to {self.count}"
            )
        self._shares = Shares((), (), self.rank)

    def scatter(
        self, image: Tokens, text: TextTokens, phases: Phases
    ) -> tuple[ReadTokens, ReadTokens, Complex[Tensor, "b _ p"]]:
        """This process's part of both streams, and the phases of its image tokens."""
        shares = Shares.of(image.shape[1], text.shape[1], self.rank, self.count)
        self._shares = shares
        mine = shares.mine(shares.image)
        return image[:, mine], text[:, shares.mine(shares.text)], phases[:, mine]

    def gather(self, image: ReadTokens) -> Tokens:
        """The whole image stream, on every process, from everybody's part."""
        sizes = self._shares.image
        padded = image.new_zeros(image.shape[0], max(sizes), image.shape[2])
        padded[:, : image.shape[1]] = image
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, self._group)
        return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)

    def attend(
        self, query: Heads, key: Heads, value: Heads, mask: JointMask | None = None
    ) -> Tokens:
        """See `framepack.models.attention.attend`, of this process's tokens with everybody's.

        Raises:
            ValueError: There is a mask: batches are for training, which splits them instead.
        """
        if mask is not None:
            raise ValueError("sequence parallelism takes batches without masked text only")
        tokens, mine = self._shares.joint, query.shape[1]
        equal = [mine] * self.count
        share = query.shape[2] // self.count
        sent = torch.stack([query, key, value])
        sent = sent.reshape(*sent.shape[:3], self.count, share, -1)
        whole = self._exchange(sent.permute(3, 2, 0, 1, 4, 5).flatten(0, 1), equal, tokens)
        out = attend(*whole.permute(1, 2, 0, 3, 4)).transpose(0, 1)
        back = self._exchange(out, tokens, equal)
        return back.reshape(self.count, mine, *back.shape[1:]).permute(2, 1, 0, 3).flatten(2)

    def _exchange(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Give so many rows to each process, get so many from each."""
        found = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(found, rows.contiguous(), received, sent, group=self._group)
        return found
