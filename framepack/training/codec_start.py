"""Where the autoencoder's training starts: principal components in, ridge regression out.

From random weights the HunyuanVideo class at a tiny width never passed 20 dB; from here it starts
at 24. Every resnet begins as the identity (its second convolution is zero), so the network is a
chain of strided convolutions, and those have closed-form solutions:

- each downsampler takes the principal components of its patches;
- each upsampler regresses a target on what the stages before it deliver: components of coarse
  patches, then pixels rearranged into channels, then RGB.

The final norm and SiLU of both halves would spoil a linear map. Each value is therefore written as
``+q`` and ``-q`` beside a large pinned ``+K`` and ``-K``: the pair keeps the group's mean at zero,
K keeps its deviation nearly constant, and silu(u) - silu(-u) = u.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Stride = tuple[int, int, int]

_KEEP = 0.3
"""What is left of random weights that the start does not set."""

_RIDGE = 1e-3
_MOST_ROWS = 24_000
_LOG_VARIANCE = -5.0
_COARSE = 32
"""Components of coarse patches that the first upsampler aims at."""


@torch.no_grad()
def start_from_components(vae: Any, pixels: Tensor) -> None:
    """Set an autoencoder's weights so that it is a linear codec of the pixels' statistics.

    Args:
        vae: Three-stage AutoencoderKLHunyuanVideo with one resnet a block and no attention.
        pixels: (b, 3, t, h, w) from -1 to 1 with t = 1 + 4k: clips to take statistics from.

    Raises:
        ValueError: Its last stage has no room for pairs of the latent channels.
    """
    channels = vae.config.latent_channels
    groups = vae.encoder.conv_norm_out.num_groups
    if vae.config.block_out_channels[-1] < 2 * (channels + groups):
        raise ValueError("the last stage is too narrow to hold each latent channel as a pair")
    for name, parameter in vae.named_parameters():
        if ".resnets." in name and ".conv2." in name:
            parameter.zero_()
    for mix in (vae.quant_conv, vae.post_quant_conv):
        mix.weight.zero_()
        mix.bias.zero_()
        mix.weight[:, :, 0, 0, 0] = torch.eye(mix.weight.shape[0])
    _start_encoder(vae.encoder, pixels, channels)
    latents = vae.quant_conv(vae.encoder(pixels))[:, :channels]
    _start_decoder(vae.decoder, pixels, latents)


def _start_encoder(encoder: Any, pixels: Tensor, latent_channels: int) -> None:
    _identity_tap(encoder.conv_in.conv, pixels.shape[1])
    features = pixels
    *earlier, last = encoder.down_blocks
    for block in earlier:
        _pass_through(block.resnets[0], features.shape[1])
        conv = block.downsamplers[0].conv.conv
        basis = _components(features, conv.stride, conv.out_channels, whiten=False)
        _write_rows(conv, slice(0, basis.count), _as_kernel(basis, conv.stride), basis.bias)
        features = basis.project(features, conv.stride)
    _pass_through(last.resnets[0], features.shape[1])
    conv = last.downsamplers[0].conv.conv
    basis = _components(features, conv.stride, latent_channels, whiten=True)
    values = basis.project(features, conv.stride)
    groups, pinned = encoder.conv_norm_out.num_groups, float(4 * values.std())
    pairs = Pairs(groups, conv.out_channels, latent_channels, pinned)
    pairs.write(conv, _as_kernel(basis, conv.stride), basis.bias)
    pairs.read(encoder.conv_out.conv, values)
    encoder.conv_out.conv.weight[latent_channels:] = 0
    encoder.conv_out.conv.bias[latent_channels:] = _LOG_VARIANCE


def _start_decoder(decoder: Any, pixels: Tensor, latents: Tensor) -> None:
    _identity_tap(decoder.conv_in.conv, latents.shape[1])
    coarse, fine = _decoder_targets(pixels)
    features = latents
    *earlier, last = decoder.up_blocks
    for block, target in zip(earlier, (coarse, fine), strict=True):
        _pass_through(block.resnets[0], features.shape[1])
        sampler = block.upsamplers[0]
        wide = _upsampled(features, sampler.upsample_factor)
        weight, bias = _regress(wide, target)
        _write_rows(sampler.conv.conv, slice(0, target.shape[1]), weight, bias)
        features = F.conv3d(_causal_pad(wide), weight, bias)
    _pass_through(last.resnets[0], features.shape[1])
    sampler = last.upsamplers[0]
    weight, bias = _regress(_upsampled(features, sampler.upsample_factor), pixels)
    groups, channels = decoder.conv_norm_out.num_groups, sampler.conv.conv.out_channels
    pairs = Pairs(groups, channels, values=3, pinned=1.5)
    pairs.write(sampler.conv.conv, weight, bias)
    pairs.read(decoder.conv_out.conv, pixels)


def _decoder_targets(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What the first two upsamplers aim at, at a quarter and at half the sides."""
    fine = rearrange(pixels, "b c t (h y) (w x) -> b (c y x) t h w", y=2, x=2)
    doubled = torch.cat([pixels[:, :, :1], pixels], dim=2)
    patches = rearrange(doubled, "b c (t u) (h y) (w x) -> b (c u y x) t h w", u=2, y=4, x=4)
    basis = _components(patches, (1, 1, 1), min(_COARSE, patches.shape[1]), whiten=False)
    coarse = basis.project(patches, (1, 1, 1))
    return coarse / coarse.std(), fine


@dataclass(frozen=True)
class Basis:
    """An affine map of patches: ``patch @ matrix + bias``."""

    matrix: Tensor
    bias: Tensor

    @property
    def count(self) -> int:
        """How many values a patch becomes."""
        return self.matrix.shape[1]

    def project(self, features: Tensor, stride: Stride) -> Tensor:
        """(b, count, t, h, w) of features' patches."""
        return (_patches(features, stride) @ self.matrix + self.bias).permute(0, 4, 1, 2, 3)


def _components(features: Tensor, stride: Stride, count: int, *, whiten: bool) -> Basis:
    """Principal components of patches.

    Whitened halfway (each deviation becomes its square root, their overall power one) channels stay
    as unequal as they matter, which a diffusion model learns better than equal ones.
    """
    rows = _patches(features, stride).flatten(0, 3)
    mean = rows.mean(0)
    covariance = ((rows - mean).T @ (rows - mean) / len(rows)).double()
    values, vectors = torch.linalg.eigh(covariance)
    count = min(count, rows.shape[1])
    deviations = values.flip(0)[:count].clamp_min(1e-8).sqrt().float()
    matrix = vectors.flip(1)[:, :count].float()
    if whiten:
        matrix = matrix / deviations.sqrt()
        matrix = matrix / deviations.mean().sqrt()
    else:
        matrix = matrix / deviations[0]
    return Basis(matrix, -(mean @ matrix))


def _patches(features: Tensor, stride: Stride) -> Tensor:
    """(b, t, h, w, c * stride) rows; the first frame is repeated to fill its patch (causal)."""
    t, h, w = stride
    first = features[:, :, :1].expand(-1, -1, t - 1, -1, -1)
    return rearrange(
        torch.cat([first, features], dim=2),
        "b c (t u) (h y) (w x) -> b t h w (c u y x)",
        u=t,
        y=h,
        x=w,
    )


def _as_kernel(basis: Basis, stride: Stride) -> Tensor:
    """A basis as the rows of a causal 3x3x3 kernel, which reaches one back, two in time."""
    t, h, w = stride
    taps = rearrange(basis.matrix, "(c u y x) n -> n c u y x", u=t, y=h, x=w)
    kernel = taps.new_zeros(*taps.shape[:2], 3, 3, 3)
    kernel[:, :, 3 - t :, 3 - h :, 3 - w :] = taps
    return kernel


@dataclass(frozen=True)
class Pairs:
    """How values lie in channels ahead of a group norm: ``+q``, ``-q``, ``+K``, ``-K`` a group."""

    groups: int
    channels: int
    values: int
    pinned: float

    def _places(self) -> list[tuple[int, int, int, int]]:
        """For each value its group's first channel, own channels with either sign, and group."""
        size = self.channels // self.groups
        each = -(-self.values // self.groups)
        return [
            (group * size, group * size + place, group * size + each + place, group)
            for group, place in (divmod(value, each) for value in range(self.values))
        ]

    def write(self, conv: nn.Conv3d, weight: Tensor, bias: Tensor) -> None:
        """Make a convolution deliver each value with both signs, and the pinned pairs."""
        each = -(-self.values // self.groups)
        conv.weight.mul_(_KEEP)
        assert conv.bias is not None
        for value, (first, plus, minus, _) in enumerate(self._places()):
            for channel, sign in ((plus, 1), (minus, -1)):
                conv.weight[channel] = 0
                conv.weight[channel, : weight.shape[1]] = sign * weight[value]
                conv.bias[channel] = sign * bias[value]
            for channel, sign in ((first + 2 * each, 1), (first + 2 * each + 1, -1)):
                conv.weight[channel] = 0
                conv.bias[channel] = sign * self.pinned

    def read(self, conv: nn.Conv3d, values: Tensor) -> None:
        """Make a convolution after norm and SiLU give back the values, whose power is known."""
        conv.weight.mul_(0.1)
        assert conv.bias is not None
        conv.bias.zero_()
        size, power = self.channels // self.groups, values.pow(2).mean((0, 2, 3, 4))
        for value, (_, plus, minus, group) in enumerate(self._places()):
            mates = [other for other, place in enumerate(self._places()) if place[3] == group]
            deviation = ((2 * power[mates].sum() + 2 * self.pinned**2) / size).sqrt()
            conv.weight[value] = 0
            conv.weight[value, plus, 2, 1, 1] = deviation
            conv.weight[value, minus, 2, 1, 1] = -deviation


def _identity_tap(conv: nn.Conv3d, channels: int) -> None:
    """Let a causal convolution hand on its first channels unchanged."""
    conv.weight.mul_(_KEEP)
    conv.weight[:channels] = 0
    assert conv.bias is not None
    conv.bias.zero_()
    index = torch.arange(channels)
    conv.weight[index, index, 2, 1, 1] = 1


def _pass_through(resnet: Any, channels: int) -> None:
    """Let a resnet that changes the width hand on its first channels unchanged."""
    if resnet.conv_shortcut is None:
        return
    conv = resnet.conv_shortcut.conv
    conv.weight.mul_(_KEEP)
    conv.weight[:channels] = 0
    conv.bias.zero_()
    index = torch.arange(channels)
    conv.weight[index, index, 0, 0, 0] = 1


def _write_rows(conv: nn.Conv3d, rows: slice, weight: Tensor, bias: Tensor) -> None:
    conv.weight.mul_(_KEEP)
    conv.weight[rows] = 0
    conv.weight[rows, : weight.shape[1]] = weight
    assert conv.bias is not None
    conv.bias[rows] = bias


def _upsampled(features: Tensor, factor: Stride) -> Tensor:
    """Nearest neighbours, the first frame not repeated in time: as the VAE's upsamplers do."""
    first = F.interpolate(features[:, :, 0], scale_factor=factor[1:], mode="nearest")
    if features.shape[2] == 1:
        return first[:, :, None]
    rest = F.interpolate(features[:, :, 1:], scale_factor=factor, mode="nearest")
    return torch.cat([first[:, :, None], rest], dim=2)


def _causal_pad(features: Tensor) -> Tensor:
    return F.pad(features, (1, 1, 1, 1, 2, 0), mode="replicate")


def _regress(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the causal 3x3x3 convolution nearest to a target, from a sample."""
    windows = _causal_pad(features).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    places = torch.randperm(target[:, 0].numel(), generator=torch.Generator().manual_seed(0))
    b, t, y, x = torch.unravel_index(places[:_MOST_ROWS], target[:, 0].shape)
    rows = windows[b, :, t, y, x].flatten(1)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    gram = (rows.T @ rows).double()
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, (rows.T @ target[b, :, t, y, x]).double()).float()
    return solution[:-1].T.unflatten(1, (features.shape[1], 3, 3, 3)), solution[-1]
