import pytest
import safetensors.torch
import torch

from framepack.generation.conditioning import Conditioning, Prompt
from framepack.generation.seeds import noise_generator
from worker.checkpoints import (
    CheckpointError,
    SectionCheckpoint,
    conditioning_from_bytes,
    conditioning_to_bytes,
    engine_of_conditioning,
)


@pytest.fixture
def checkpoint() -> SectionCheckpoint:
    generator = noise_generator(3)
    latents = torch.randn((1, 16, 9, 4, 6), generator=generator)
    return SectionCheckpoint(latents, generator.get_state())


def test_a_section_comes_back_bit_for_bit(checkpoint: SectionCheckpoint) -> None:
    again = SectionCheckpoint.from_bytes(checkpoint.to_bytes())
    assert torch.equal(again.latents, checkpoint.latents)
    assert again.latents.dtype == torch.float32
    assert again.to_bytes() == checkpoint.to_bytes()


def test_the_next_noise_is_the_same_on_another_worker(checkpoint: SectionCheckpoint) -> None:
    undisturbed = noise_generator(3)
    torch.randn((1, 16, 9, 4, 6), generator=undisturbed)
    expected = torch.randn((7, 5), generator=undisturbed)

    restored = noise_generator(999)
    restored.set_state(SectionCheckpoint.from_bytes(checkpoint.to_bytes()).generator)
    assert torch.equal(torch.randn((7, 5), generator=restored), expected)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not tensors at all",
        safetensors.torch.save({"latents": torch.zeros(1)}),
        safetensors.torch.save({"latents": torch.zeros(1).half(), "generator": torch.zeros(1)}),
    ],
)
def test_other_bytes_are_no_section(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        SectionCheckpoint.from_bytes(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_negative", [False, True])
def test_a_conditioning_comes_back_bit_for_bit(dtype: torch.dtype, with_negative: bool) -> None:
    def prompt(tokens: int) -> Prompt:
        return Prompt(torch.randn(1, tokens, 8).to(dtype), torch.randn(1, 4).to(dtype))

    given = Conditioning(
        prompts=(prompt(5), prompt(7)),
        negative=prompt(2) if with_negative else None,
        image=torch.randn(1, 3, 8).to(dtype),
        start=torch.randn(1, 16, 1, 4, 6),
    )
    data = conditioning_to_bytes(given, {"device": "cpu"})
    again = conditioning_from_bytes(data)
    assert engine_of_conditioning(data) == {"device": "cpu"}
    assert len(again.prompts) == 2
    assert (again.negative is not None) == with_negative
    for name, tensor in given.to_tensors().items():
        assert torch.equal(again.to_tensors()[name], tensor), name
        assert again.to_tensors()[name].dtype == tensor.dtype


def test_a_section_is_no_conditioning(checkpoint: SectionCheckpoint) -> None:
    with pytest.raises(CheckpointError):
        conditioning_from_bytes(checkpoint.to_bytes())
    assert engine_of_conditioning(checkpoint.to_bytes()) is None
    with pytest.raises(CheckpointError):
        engine_of_conditioning(b"no checkpoint")
