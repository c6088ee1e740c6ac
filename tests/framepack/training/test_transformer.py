from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framepack.errors import InvalidRequest
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.tiny import SIZES
from framepack.packing.schedule import Kernel
from framepack.training.examples import Arm, collate, cut
from framepack.training.rates import RateSchedule
from framepack.training.run import RunSettings
from framepack.training.starts import start_transformer
from framepack.training.transformer import (
    Corpus,
    TransformerRun,
    TransformerTraining,
    predict_velocity,
)

SETTINGS = TransformerTraining(
    run=RunSettings(RateSchedule(40, warmup=5), report_every=20, save_every=8, bfloat16=False),
    arms=(Arm("inverted", "inverted", 0.6), Arm("forward", "forward", 0.4)),
    batch=4,
    rate=4e-3,
    held_out_batch=8,
)


@pytest.fixture
def new_model() -> Callable[[], PackedHunyuanVideo]:
    def make() -> PackedHunyuanVideo:
        torch.manual_seed(0)
        model = PackedHunyuanVideo(SIZES["nano"].transformer)
        start_transformer(model)
        return model

    return make


def test_the_loss_falls(
    new_model: Callable[[], PackedHunyuanVideo], nano_corpus: Corpus, run_folder: Path
) -> None:
    run = TransformerRun(new_model(), SETTINGS, nano_corpus, run_folder)
    before = run.measure()
    *_, figures = run.advance()
    assert run.finished
    for arm in ("inverted", "forward"):
        assert float(figures[f"held_out_{arm}"]) < 0.85 * float(before[f"held_out_{arm}"])
    rows = (run_folder / "log.csv").read_text().splitlines()
    assert rows[0] == "step,cpu_seconds,loss,held_out_inverted,held_out_forward"
    assert [row.split(",")[0] for row in rows[1:]] == ["20", "40"]


def test_a_run_cut_anywhere_is_the_uncut_one(
    new_model: Callable[[], PackedHunyuanVideo], nano_corpus: Corpus, tmp_path: Path
) -> None:
    """Cut cleanly at 3, then lost at 11 with its last state at 8: still the same bits at 14."""
    settings = replace(SETTINGS, run=replace(SETTINGS.run, rates=RateSchedule(14, warmup=5)))
    uncut = TransformerRun(new_model(), settings, nano_corpus, tmp_path / "uncut")
    list(uncut.advance())
    folder = tmp_path / "cut"
    list(TransformerRun(new_model(), settings, nano_corpus, folder).advance(3))
    lost = TransformerRun(new_model(), settings, nano_corpus, folder)
    assert lost.step == 3
    for _ in range(8):
        lost._train_step()
        if lost.step % 8 == 0:
            lost.save()
    again = TransformerRun(new_model(), settings, nano_corpus, folder)
    assert again.step == 8
    list(again.advance())
    ours, theirs = again.model.state_dict(), uncut.model.state_dict()
    for name, tensor in uncut.average.values.items():
        assert torch.equal(again.average.values[name], tensor), name
        assert torch.equal(ours[name], theirs[name]), name


def test_a_run_is_not_resumed_as_another(
    new_model: Callable[[], PackedHunyuanVideo], nano_corpus: Corpus, run_folder: Path
) -> None:
    list(TransformerRun(new_model(), SETTINGS, nano_corpus, run_folder).advance(1))
    with pytest.raises(InvalidRequest, match="other settings"):
        TransformerRun(new_model(), replace(SETTINGS, batch=5), nano_corpus, run_folder)
    with pytest.raises(InvalidRequest, match="other settings"):
        TransformerRun(new_model(), SETTINGS, replace(nano_corpus, key="other"), run_folder)
    longer = replace(SETTINGS, run=replace(SETTINGS.run, rates=RateSchedule(99)))
    assert TransformerRun(new_model(), longer, nano_corpus, run_folder).step == 1


def test_a_new_model_says_nothing_and_averages_its_history(
    new_model: Callable[[], PackedHunyuanVideo], nano_corpus: Corpus
) -> None:
    model = new_model()
    example = cut(nano_corpus.clips[0], SETTINGS.arms[0].plan(2), 1)
    batch = collate([example], nano_corpus.uncaptioned)
    noise = torch.randn(batch.target.shape)
    velocity = predict_velocity(model, batch, torch.tensor([0.5]), noise, 10.0)
    assert not velocity.any()
    latents = torch.randn(1, 16, 4, 8, 8)
    tokens = model.clean_x_embedder(latents, Kernel(4, 8, 8))
    averaged = torch.nn.functional.avg_pool3d(latents, (4, 4, 4))
    torch.testing.assert_close(tokens, model.x_embedder(averaged))


def test_a_batch_gives_each_example_what_it_gets_alone(
    new_model: Callable[[], PackedHunyuanVideo], nano_corpus: Corpus
) -> None:
    """Padding of captions and positions of neighbours leave no trace."""
    model = new_model()
    torch.nn.init.normal_(model.proj_out.weight)
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        for name, parameter in block.named_parameters():
            if "norm" in name and parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    examples = [
        replace(cut(nano_corpus.clips[n], SETTINGS.arms[0].plan(n + 1), 0), captioned=n != 1)
        for n in range(3)
    ]
    noise, levels = torch.randn(3, 16, 9, 8, 8), torch.tensor([0.2, 0.5, 0.9])
    together = predict_velocity(
        model, collate(examples, nano_corpus.uncaptioned), levels, noise, 10.0
    )
    for n, example in enumerate(examples):
        one = slice(n, n + 1)
        with torch.inference_mode():  # as generation runs, fused attention included
            alone = predict_velocity(
                model, collate([example], nano_corpus.uncaptioned), levels[one], noise[one], 10.0
            )
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-4)


def test_a_schedule_needs_its_projections(
    new_model: Callable[[], PackedHunyuanVideo], nano_corpus: Corpus, run_folder: Path
) -> None:
    arm = Arm("coarse", "vanilla", 1.0, schedule="td_f16k8f1k1_g9")
    with pytest.raises(InvalidRequest, match=r"arms.coarse: the model has no projection for"):
        TransformerRun(new_model(), replace(SETTINGS, arms=(arm,)), nano_corpus, run_folder)
