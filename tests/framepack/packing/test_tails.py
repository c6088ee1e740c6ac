import pytest
import torch

from framepack.packing.accounting import tail_kernel, tail_tokens
from framepack.packing.patchify import ContextPatchify, interpolate_projection
from framepack.packing.schedule import BASE_KERNEL, Kernel, parse_schedule, pooled_first
from framepack.packing.tails import append_tail, compress_tail, middle_position


@pytest.mark.parametrize("frames", [1, 4, 7])
@pytest.mark.parametrize(("height", "width"), [(60, 104), (80, 76), (6, 10)])
def test_token_counts_are_the_schedules(frames: int, height: int, width: int) -> None:
    tail = torch.randn(1, 4, frames, height, width)
    for name, pool in (("ta_f4k4f1k1_g2", append_tail), ("tc_f4k4f1k1_g2", compress_tail)):
        schedule = parse_schedule(name)
        kernel = tail_kernel(schedule)
        tokens = ContextPatchify(4, 8, [kernel])(pool(tail), kernel)
        assert tokens.shape[1] == tail_tokens(schedule, frames, height, width)


def test_an_appended_frame_is_the_mean_of_its_blocks() -> None:
    tail = torch.randn(1, 2, 3, 32, 40)
    pooled = append_tail(tail)
    assert pooled.shape == (1, 2, 3, 1, 2)
    torch.testing.assert_close(pooled[..., 0, 0], tail[..., :32].mean((-1, -2)))
    repeated = torch.cat([tail[..., 32:], tail[..., -1:].expand(1, 2, 3, 32, 24)], dim=-1)
    torch.testing.assert_close(pooled[..., 0, 1], repeated.mean((-1, -2)))


def test_a_compressed_tail_is_one_pixel_and_stands_in_the_middle() -> None:
    tail = torch.randn(1, 2, 5, 6, 7)
    torch.testing.assert_close(compress_tail(tail).flatten(), tail[0].flatten(1).mean(1))
    assert middle_position(range(10, 15)) == 12


def test_k16_is_k8_of_averaged_latents() -> None:
    k8, k16 = Kernel(8, 16, 16), Kernel(16, 32, 32)
    assert pooled_first(k16) == (Kernel(2, 2, 2), k8)
    assert pooled_first(k8) == (Kernel(1, 1, 1), k8)
    patchify = ContextPatchify(4, 8, [k8, k16])
    assert len(list(patchify.parameters())) == 2, "k16 has no weights of its own"
    latents = torch.randn(1, 4, 16, 40, 32)
    tokens = patchify(latents, k16)
    assert tokens.shape[1] == parse_schedule("f16k16_g1").context_tokens(40, 32) == 2
    rows = [latents, latents[..., -1:, :].expand(1, 4, 16, 24, 32)]
    averaged = torch.nn.functional.avg_pool3d(torch.cat(rows, dim=3), 2)
    torch.testing.assert_close(tokens, patchify(averaged, k8))


@pytest.mark.parametrize("kernel", [Kernel(2, 4, 4), Kernel(1, 4, 2), Kernel(16, 32, 32)])
def test_an_interpolated_kernel_is_the_base_kernel_of_averaged_latents(kernel: Kernel) -> None:
    """Through the averaging first as well, where there is one."""
    patchify = ContextPatchify(4, 8, [BASE_KERNEL, kernel]).double()
    projections = dict(patchify.named_children())
    base = projections.pop("proj")
    (other,) = projections.values()
    assert isinstance(base, torch.nn.Conv3d)
    assert isinstance(other, torch.nn.Conv3d)
    assert base.bias is not None
    assert other.bias is not None
    projected = pooled_first(kernel)[1]
    other.weight.data = interpolate_projection(base.weight.data, projected)
    other.bias.data = base.bias.data
    latents = torch.randn(1, 4, *(2 * k for k in kernel), dtype=torch.float64)
    factors = [k // b for k, b in zip(kernel, BASE_KERNEL, strict=True)]
    averaged = torch.nn.functional.avg_pool3d(latents, factors)
    torch.testing.assert_close(patchify(latents, kernel), patchify(averaged, BASE_KERNEL))


def test_a_kernel_that_does_not_average_down_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be averaged"):
        pooled_first(Kernel(1, 17, 16))
