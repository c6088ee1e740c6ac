"""What saves memory changes nothing, or as little as it says."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.models.float8 import to_float8
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.tiny import SIZES
from framepack.training.examples import Arm
from framepack.training.histories import HistorySettings
from framepack.training.levels import NoiseLevels
from framepack.training.lora import LoraTraining
from framepack.training.memory import MemorySettings
from framepack.training.rates import RateSchedule
from framepack.training.run import RunSettings
from framepack.training.transformer import Corpus, TransformerRun, TransformerTraining

FULL = TransformerTraining(
    run=RunSettings(RateSchedule(6, warmup=1), report_every=6, save_every=2, bfloat16=False),
    arms=(Arm("inverted", "inverted", 1.0),),
    batch=4,
    rate=1e-2,
    held_out_batch=2,
)
LORA = replace(FULL, lora=LoraTraining(rank=2))
EIGHT_BIT = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs the extra train-8bit"
)


def new_model() -> PackedHunyuanVideo:
    torch.manual_seed(0)
    return PackedHunyuanVideo(SIZES["nano"].transformer)


@pytest.fixture
def trained(nano_corpus: Corpus, tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """Averaged weights after some steps."""

    def train(settings: TransformerTraining, slices: tuple[int, ...] = (4,)) -> dict[str, Tensor]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for steps in slices:
            run = TransformerRun(new_model(), settings, nano_corpus, folder)
            list(run.advance(steps))
        return run.averaged_weights()

    return train


def assert_same(made: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(made[name], tensor, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("settings", [FULL, LORA])
def test_recomputed_blocks_give_the_same_bits(
    settings: TransformerTraining, trained: Callable[..., dict[str, Tensor]]
) -> None:
    recomputed = replace(settings, memory=MemorySettings(checkpointing=True))
    assert_same(trained(recomputed), trained(settings), 0.0)


def test_swapped_blocks_give_the_same_bits(trained: Callable[..., dict[str, Tensor]]) -> None:
    swapped = replace(LORA, memory=MemorySettings(swapped_blocks=1))
    assert_same(trained(swapped), trained(LORA), 0.0)


def test_parts_of_a_batch_add_up_to_the_step(nano_corpus: Corpus, tmp_path: Path) -> None:
    """Gradients, not weights: AdamW makes much of the rounding where a gradient is zero."""
    gradients = []
    for parts in (1, 4):
        settings = replace(FULL, accumulate=parts)
        run = TransformerRun(new_model(), settings, nano_corpus, tmp_path / str(parts))
        losses = list(run.losses())
        assert len(losses) == parts
        torch.autograd.backward(losses)
        gradients.append([p.grad for p in run.average.parameters if p.grad is not None])
    for whole, parted in zip(*gradients, strict=True):
        torch.testing.assert_close(parted, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        replace(LORA, memory=MemorySettings(frozen="float8", swapped_blocks=1)),
        replace(LORA, memory=MemorySettings(checkpointing=True, frozen="bfloat16")),
        pytest.param(replace(FULL, optimizer="adamw8bit"), marks=EIGHT_BIT),
        replace(FULL, optimizer="muon"),
        replace(LORA, optimizer="muon"),
        replace(FULL, accumulate=2, train="new_layers"),
        replace(
            FULL,
            levels=NoiseLevels("logit_normal", shift="sampling", stratified=True),
            arms=(
                Arm("noise", "vanilla", 1.0, history=HistorySettings("noise", absent=0.3)),
                Arm("clean", "endpoints", 1.0),
                Arm("tail", "vanilla", 1.0, "ta_f1k2f1k1_g9"),
            ),
        ),
    ],
)
def test_a_cut_run_is_the_uncut_one_in_every_mode(
    settings: TransformerTraining, trained: Callable[..., dict[str, Tensor]]
) -> None:
    assert_same(trained(settings, (1, 3)), trained(settings), 0.0)


def test_float8_quarters_the_matrices_and_hardly_changes_the_answer(
    nano_corpus: Corpus, tmp_path: Path
) -> None:
    def stored(name: str, parameter: Tensor) -> bool:
        frozen = parameter.ndim == 2 and not parameter.requires_grad
        return frozen and "transformer_blocks" in name and "norm" not in name

    def run(memory: MemorySettings, name: str) -> TransformerRun:
        settings = replace(LORA, memory=memory)
        return TransformerRun(new_model(), settings, nano_corpus, tmp_path / name)

    runs = [run(MemorySettings(frozen=kind), kind) for kind in ("float32", "bfloat16", "float8")]
    whole, half, quarter = (
        sum(p.nbytes for name, p in r.model.named_parameters() if stored(name, p)) for r in runs
    )
    assert half == whole / 2
    assert quarter == whole / 4
    assert {p.dtype for p in runs[2].model.parameters()} == {
        torch.float32,  # factors
        torch.bfloat16,  # modulations and what is around the blocks
        torch.float8_e4m3fn,
    }
    before, _, after = (float(r.measure()["held_out_inverted"]) for r in runs)
    assert after == pytest.approx(before, rel=0.02)
    assert after != before


def test_float8_rounds_each_row_by_its_own_scale() -> None:
    weight = torch.randn(8, 64) * torch.logspace(-4, 4, 8)[:, None]
    stored, scale = to_float8(weight)
    assert stored.dtype is torch.float8_e4m3fn
    error = (stored.float() * scale - weight).norm(dim=1) / weight.norm(dim=1)
    assert error.max() < 0.04
    assert not to_float8(torch.zeros(2, 4))[0].float().any()


def test_weights_that_are_trained_stay_as_they_are(nano_corpus: Corpus, run_folder: Path) -> None:
    for memory in (MemorySettings(frozen="float8"), MemorySettings(swapped_blocks=1)):
        with pytest.raises(InvalidRequest, match="train a LoRA"):
            TransformerRun(new_model(), replace(FULL, memory=memory), nano_corpus, run_folder)
    too_many = replace(LORA, memory=MemorySettings(swapped_blocks=3))
    with pytest.raises(InvalidRequest, match="3 swapped_blocks, but there are 2"):
        TransformerRun(new_model(), too_many, nano_corpus, run_folder)
    with pytest.raises(InvalidRequest, match="4 examples cannot be divided"):
        TransformerRun(new_model(), replace(FULL, accumulate=3), nano_corpus, run_folder)


@EIGHT_BIT
def test_eight_bit_states_are_eight_bits(nano_corpus: Corpus, run_folder: Path) -> None:
    settings = replace(FULL, optimizer="adamw8bit")
    run = TransformerRun(new_model(), settings, nano_corpus, run_folder)
    list(run.advance(2))
    (optimizer,) = run.optimizers
    large = [p for p in run.average.parameters if p.numel() >= 4096]
    assert large
    assert {optimizer.state[p]["state1"].dtype for p in large} == {torch.uint8}


def test_only_new_layers_move_where_asked(nano_corpus: Corpus, run_folder: Path) -> None:
    settings = replace(FULL, train="new_layers")
    run = TransformerRun(new_model(), settings, nano_corpus, run_folder)
    list(run.advance(2))
    moved = {
        name.split(".")[0]
        for name, tensor in run.model.state_dict().items()
        if not torch.equal(tensor, new_model().state_dict()[name])
    }
    assert moved == {"clean_x_embedder", "image_projection"}


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_missing_library_is_named_with_its_extra(nano_corpus: Corpus, run_folder: Path) -> None:
    settings = replace(FULL, optimizer="adamw8bit")
    with pytest.raises(InvalidRequest, match=r"optimizer: .*framepack-service\[train-8bit\]"):
        TransformerRun(new_model(), settings, nano_corpus, run_folder)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_swapped_blocks_leave_the_device_and_change_nothing(
    nano_corpus: Corpus, tmp_path: Path
) -> None:
    device, losses = torch.device("cuda"), []
    for swapped in (0, 2):
        memory = MemorySettings(checkpointing=True, swapped_blocks=swapped)
        run = TransformerRun(
            new_model(),
            replace(LORA, memory=memory),
            nano_corpus,
            tmp_path / str(swapped),
            device=device,
        )
        frozen = [p for name, p in run.model.named_parameters() if "base_layer.weight" in name]
        assert {p.device.type for p in frozen} == {"cpu" if swapped else "cuda"}
        *_, figures = run.advance()
        losses.append([float(figures[key]) for key in ("loss", "held_out_inverted")])
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]))
