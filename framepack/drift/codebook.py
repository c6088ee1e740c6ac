"""History discretisation: a k-means codebook of latent pixels (section 3.3.2, equation 6).

The model is trained and run on a history whose every latent pixel is replaced by its nearest
codebook entry, so that the errors of generated history fall on the same entries as clean history.
With one entry nothing of the history is left (no drift, no memory); with very many nothing changes.

Decisions where the paper is silent: the codebook lives in the latent space the transformer sees
(after VAE scaling), one for all packing levels, and the start picture's frame is replaced like any
other when it is handed in. A frame of zeros stands for "absent" and stays so; it is not fitted
either.

Memory: distances are formed for a block of pixels at a time (`BLOCK_DISTANCES`), never N x K.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from framepack.errors import WeightsError
from framepack.types import Latents

BLOCK_DISTANCES = 1 << 22
"""Distances held at once: 16 MiB in fp32."""

Pixels = Float[Tensor, "n c"]
LatentSource = Callable[[], Iterable[Latents]]
"""Starts a new pass over a latent data set."""


@dataclass(frozen=True)
class FitOptions:
    """How a codebook is fitted.

    Attributes:
        size: Number of entries (the paper's K).
        seed: Of all random choices.
        passes: Mini-batch passes over the data.
        batch: Latent pixels of a mini-batch.
        candidates: Latent pixels kept at random for the k-means++ start.
        device: Where the arithmetic runs.
    """

    size: int = 128
    seed: int = 0
    passes: int = 3
    batch: int = 16384
    candidates: int = 65536
    device: str = "cpu"


@dataclass(frozen=True)
class Codebook:
    """Entries, and how they came to be.

    Attributes:
        entries: (K, c) fp32.
        metadata: Text by name, stored with the entries.
    """

    entries: Float[Tensor, "k c"]
    metadata: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        save_file({"entries": self.entries.cpu().contiguous()}, path, metadata=self.metadata)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Codebook:
        """Read what `save` wrote.

        Raises:
            WeightsError: The file is absent, unreadable or no codebook.
        """
        try:
            with safe_open(path, framework="pt", device=device) as file:
                entries, metadata = file.get_tensor("entries"), dict(file.metadata() or {})
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path.name} is no codebook: {error}") from error
        if entries.ndim != 2 or not entries.is_floating_point():
            raise WeightsError(f"{path.name} is no codebook: entries are {tuple(entries.shape)}")
        return cls(entries, metadata)


def nearest_entries(pixels: Pixels, entries: Float[Tensor, "k c"]) -> Int[Tensor, " n"]:
    """Index of each pixel's nearest entry (L2; the first among equals)."""
    # The pixel's own norm is the same for all entries: |e|^2 - 2 <x, e> has the same minimum.
    weights, offset = -2 * entries.float().T, entries.float().square().sum(1)
    block = max(1, BLOCK_DISTANCES // len(entries))
    nearest = torch.empty(len(pixels), dtype=torch.long, device=pixels.device)
    for start in range(0, len(pixels), block):
        part = pixels[start : start + block].float()
        nearest[start : start + block] = torch.addmm(offset, part, weights).argmin(1)
    return nearest


def discretise(latents: Latents, codebook: Codebook) -> Latents:
    """Replace every latent pixel by its nearest entry; frames of zeros stay zeros.

    Returns:
        Of the same shape, dtype and device.
    """
    entries = codebook.entries.to(latents.device)
    present = present_frames(latents)
    pixels = latents.movedim(1, -1)[present].flatten(0, -2)
    replaced = torch.zeros_like(latents).movedim(1, -1)
    if len(pixels):
        values = entries[nearest_entries(pixels, entries)].to(latents.dtype)
        replaced[present] = values.reshape(-1, *replaced.shape[2:])
    return replaced.movedim(-1, 1).contiguous()


def present_frames(latents: Latents) -> Tensor:
    """(b, t) whether a frame is there at all, that is not all zeros."""
    return latents.ne(0).any(dim=1).flatten(2).any(dim=2)


def fit_codebook(source: LatentSource, options: FitOptions) -> Codebook:
    """Fit by k-means++ on a random sample, then mini-batch k-means over all data.

    The data is streamed: memory holds one batch, the sample and the entries. The same data, options
    and device give the same entries.

    Raises:
        ValueError: The data holds fewer pixels than there are entries.
    """
    generator = torch.Generator().manual_seed(options.seed)
    sample = _reservoir(source, options, generator)
    if len(sample) < options.size:
        raise ValueError(f"{len(sample)} latent pixels cannot make {options.size} entries")
    entries = _plus_plus(sample, options.size, generator)
    weights = torch.zeros(options.size, device=entries.device)
    for _ in range(options.passes):
        for batch in _batches(source, options):
            _move(entries, weights, batch)
    metadata = {"format": "framepack-codebook-1", "fit": json.dumps(asdict(options))}
    return Codebook(entries.cpu(), metadata)


def _batches(source: LatentSource, options: FitOptions) -> Iterator[Pixels]:
    for latents in source():
        pixels = latents.movedim(1, -1)[present_frames(latents)].flatten(0, -2)
        for first in range(0, len(pixels), options.batch):
            yield pixels[first : first + options.batch].to(options.device, torch.float32)


def _reservoir(source: LatentSource, options: FitOptions, generator: torch.Generator) -> Pixels:
    """An equal chance for every pixel: the ones with the largest random keys are kept."""
    kept = torch.empty(0)
    keys = torch.empty(0)
    for part in _batches(source, options):
        fresh = torch.rand(len(part), generator=generator)
        keys = torch.cat([keys, fresh])
        kept = torch.cat([kept.to(part), part]) if len(kept) else part
        if len(keys) > options.candidates:
            keys, chosen = keys.topk(options.candidates)
            kept = kept[chosen.to(kept.device)]
    return kept


def _plus_plus(sample: Pixels, size: int, generator: torch.Generator) -> Float[Tensor, "k c"]:
    """Each next entry is drawn in proportion to its squared distance from those chosen."""
    chosen = [int(torch.randint(len(sample), (1,), generator=generator))]
    distance = (sample - sample[chosen[0]]).square().sum(1)
    for _ in range(size - 1):
        # A point of the cumulative sum, in fp64 on the CPU: the same draw on every device, and
        # no limit on the sample's size as torch.multinomial has.
        total = distance.double().cpu().cumsum(0)
        point = torch.rand(1, generator=generator, dtype=torch.float64) * total[-1]
        index = min(int(torch.searchsorted(total, point, right=True)), len(sample) - 1)
        chosen.append(index)
        distance = torch.minimum(distance, (sample - sample[index]).square().sum(1))
    return sample[chosen].clone()


def _move(entries: Float[Tensor, "k c"], weights: Float[Tensor, " k"], batch: Pixels) -> None:
    """Move entries, in place, to the running mean of all pixels they were ever nearest to."""
    nearest = nearest_entries(batch, entries)
    counts = torch.bincount(nearest, minlength=len(entries)).to(weights)
    sums = torch.zeros_like(entries).index_add_(0, nearest, batch)
    weights += counts
    hit = counts > 0
    step = (sums[hit] - counts[hit, None] * entries[hit]) / weights[hit, None]
    entries[hit] += step
