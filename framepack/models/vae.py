"""The HunyuanVideo autoencoder as a section codec.

Its class in diffusers decodes windows of 5 latent frames at a stride of 3 with a fade of 4 pixel
frames, always; the numbers are read from the instance. Spatial tiling is never switched on: it
changes the picture, the encoded start frame's too, and costs 1.6 times the work.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from framepack.errors import WeightsError
from framepack.models.attention import attend
from framepack.models.codec import Tiling


class HunyuanVideoCodec:
    """`framepack.models.codec.SectionCodec` over diffusers' AutoencoderKLHunyuanVideo."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae.eval().requires_grad_(False)
        scale = vae.temporal_compression_ratio
        self._tiling = Tiling(
            window=vae.tile_sample_min_num_frames // scale + 1,
            stride=vae.tile_sample_stride_num_frames // scale,
            blend=vae.tile_sample_min_num_frames - vae.tile_sample_stride_num_frames,
            temporal_compression=scale,
        )

    @property
    def tiling(self) -> Tiling:
        """See `SectionCodec`."""
        return self._tiling

    @property
    def channels(self) -> int:
        """See `SectionCodec`."""
        channels: int = self.vae.config.latent_channels
        return channels

    @torch.inference_mode()
    def encode_image(
        self, pixels: UInt8[np.ndarray, "height width 3"], generator: torch.Generator
    ) -> Float[Tensor, "1 c 1 h w"]:
        """See `SectionCodec`; the arithmetic is the VAE's own dtype, as in the official code."""
        image = torch.from_numpy(pixels.copy()).float() / 127.5 - 1
        image = image.permute(2, 0, 1)[None, :, None].to(self.vae.device, self.vae.dtype)
        posterior = self.vae.encode(image).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        latents: Tensor = (posterior.mean + posterior.std * noise) * self.vae.config.scaling_factor
        return latents.float().cpu()

    @torch.inference_mode()
    def decode_window(
        self, latents: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b 3 frames height width"]:
        """See `SectionCodec`. Not ``vae.decode``, which would cut the window again."""
        latents = latents / self.vae.config.scaling_factor
        latents = latents.to(self.vae.device, self.vae.dtype)
        pixels: Tensor = self.vae.decoder(self.vae.post_quant_conv(latents))
        return pixels


def load_codec(folder: Path, device: torch.device, dtype: torch.dtype) -> HunyuanVideoCodec:
    """Load a diffusers-style ``vae`` folder.

    Raises:
        WeightsError: The folder holds no such VAE, or its tensors are not exactly the model's.
    """
    vae = load_vae(AutoencoderKLHunyuanVideo, folder, dtype)
    attend_frame_by_frame(vae)
    if device.type == "cpu" and dtype is torch.float32:
        use_onednn_convolutions(vae)
    return HunyuanVideoCodec(vae.to(device))


def load_vae(vae_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    """One of diffusers' autoencoders from its folder, on the CPU. Raises WeightsError."""
    try:
        vae, info = vae_class.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise WeightsError(f"no {vae_class.__name__} in {folder}: {error}") from error
    wrong = {kind: keys for kind, keys in info.items() if keys}
    if wrong:
        raise WeightsError(f"the VAE in {folder} does not fit its config.json: {wrong}")
    return vae


def attend_frame_by_frame(vae: Any) -> None:
    """Let the attention in the middle of an autoencoder need no mask.

    A frame sees itself and those before it. diffusers writes this as a mask over all pairs of
    positions (10 GB while it is made, at 640 x 608) and computes all pairs. Frame by frame the same
    sums need no mask and three fifths of the work, up to rounding.
    """
    for part in (vae.encoder, vae.decoder):
        part.mid_block.forward = partial(_run_middle, part.mid_block)


def _run_middle(block: Any, x: Tensor) -> Tensor:
    """The forward pass of a HunyuanVideoMidBlock3D."""
    x = block.resnets[0](x)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            x = x + _attend_to_earlier(attention, x)
        x = resnet(x)
    return x


def _attend_to_earlier(attention: Any, x: Float[Tensor, "b c t h w"]) -> Tensor:
    batch, channels, frames, height, width = x.shape
    normed = attention.group_norm(x.flatten(2)).transpose(1, 2)
    q, k, v = (
        project(normed).unflatten(-1, (attention.heads, -1))
        for project in (attention.to_q, attention.to_k, attention.to_v)
    )
    area = height * width
    seen = [slice(0, (frame + 1) * area) for frame in range(frames)]
    out = torch.cat([attend(q[:, s][:, -area:], k[:, s], v[:, s]) for s in seen], dim=1)
    projected: Tensor = attention.to_out[0](out)
    return projected.transpose(1, 2).reshape(batch, channels, frames, height, width)


class OneDnnConv3d(nn.Conv3d):
    """A 3-D convolution that always runs in oneDNN.

    PyTorch leaves small fp32 convolutions of batch 1 (batch * channels * frames * height up to
    20480) to a slow loop of its own. Every layer of the ``tiny`` VAE is one: a window of five
    latent frames takes 255 ms there and 71 ms here, on one thread, with the same result for any
    batch. bf16 takes 46 ms on a CPU that has it in hardware, and far longer on one that has not.
    """

    @classmethod
    def sharing(cls, conv: nn.Conv3d) -> OneDnnConv3d:
        """The same convolution with the same parameters."""
        # Explicit zero padding only: the VAE pads its causal convolutions itself.
        new = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            device="meta",
        )
        new.weight, new.bias = conv.weight, conv.bias
        return new

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = [int(side) for side in self.padding]
        return torch.mkldnn_convolution(
            input, weight, bias, padding, self.stride, self.dilation, self.groups
        )


def use_onednn_convolutions(module: nn.Module) -> None:
    """Replace a module's 3-D convolutions by `OneDnnConv3d`, if this build of torch has oneDNN."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv3d:
                setattr(parent, name, OneDnnConv3d.sharing(child))
