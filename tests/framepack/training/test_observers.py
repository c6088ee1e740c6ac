"""What is shown of a run changes nothing in it."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from framepack.errors import InvalidRequest
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.tiny import SIZES
from framepack.presets import Models
from framepack.training.config import TrainingConfig, WorldData
from framepack.training.examples import Arm
from framepack.training.observers import ProgressBar
from framepack.training.pictures import read_prompts
from framepack.training.previews import SHEET_FRAMES, Previews, PreviewSettings, contact_sheet
from framepack.training.processes import Processes
from framepack.training.rates import RateSchedule
from framepack.training.run import RunSettings
from framepack.training.stages import Training
from framepack.training.transformer import Corpus, TransformerRun, TransformerTraining

SETTINGS = TransformerTraining(
    run=RunSettings(RateSchedule(4, warmup=1), report_every=2, save_every=2, bfloat16=False),
    arms=(Arm("inverted", "inverted", 1.0),),
    batch=2,
    held_out_batch=2,
)


@pytest.fixture
def new_run(nano_corpus: Corpus, tmp_path: Path) -> Callable[..., TransformerRun]:
    def make(name: str = "run", **run: object) -> TransformerRun:
        torch.manual_seed(0)
        model = PackedHunyuanVideo(SIZES["nano"].transformer)
        settings = replace(SETTINGS, run=replace(SETTINGS.run, **run))  # type: ignore[arg-type]
        return TransformerRun(model, settings, nano_corpus, tmp_path / name)

    return make


def test_previews_are_videos_and_a_sheet_and_leave_the_run_alone(
    new_run: Callable[..., TransformerRun], nano_models: Models, nano_corpus: Corpus
) -> None:
    plain, watched = new_run("plain"), new_run("watched")
    settings = PreviewSettings(every=2, clips=2, sections=1, order="forward", steps=2)
    watched.observers.append(Previews(settings, nano_models, nano_corpus.held_out))
    for run in (plain, watched):
        list(run.advance())
    for name, tensor in plain.average.values.items():
        assert torch.equal(watched.average.values[name], tensor), name
    folder = watched.folder / "previews"
    assert sorted(path.name for path in folder.iterdir()) == ["000002", "000004"]
    last = folder / "000004"
    for number in range(2):
        with av.open(str(last / f"{number:02d}.mp4")) as container:
            shapes = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
        assert shapes == [(64, 64, 3)] * 37
    assert np.asarray(Image.open(last / "sheet.png")).shape == (2 * 64, SHEET_FRAMES * 64, 3)
    captions = (last / "captions.txt").read_text().splitlines()
    assert captions == [f"{n:02d} {clip.caption}" for n, clip in enumerate(nano_corpus.held_out)]
    first, second = ((folder / step / "00.mp4").read_bytes() for step in ("000002", "000004"))
    assert first != second


def test_previews_say_what_cannot_be_made(nano_models: Models, nano_corpus: Corpus) -> None:
    with pytest.raises(InvalidRequest, match="order"):
        Previews(PreviewSettings(1, order="sideways"), nano_models, nano_corpus.held_out)
    with pytest.raises(InvalidRequest, match=r"previews.clips: must be at least 1"):
        PreviewSettings(1, clips=0)
    config = TrainingConfig(WorldData(1, 1), SETTINGS, previews=PreviewSettings(1))
    with pytest.raises(InvalidRequest, match="one process"):
        Training(config, Path(), processes=Processes(0, 2))


def test_previews_can_be_of_your_own_pictures(nano_folder: Path, tmp_path: Path) -> None:
    """Encoded with the clips, once; each at its own size."""
    Image.linear_gradient("L").resize((120, 70)).save(tmp_path / "wide.png")
    Image.linear_gradient("L").save(tmp_path / "square.png")
    names = {"wide": "a red ball", "square": "a blue ring"}
    lines = [json.dumps({"image": f"{n}.png", "prompt": p}) for n, p in names.items()]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    previews = PreviewSettings(1, prompts=str(tmp_path / "prompts.jsonl"), sections=1, steps=1)
    settings = replace(SETTINGS, run=replace(SETTINGS.run, rates=RateSchedule(1)))
    config = TrainingConfig(
        WorldData(2, 1, latent_frames=10), settings, start=str(nano_folder), previews=previews
    )
    training = Training(config, tmp_path / "out")
    reports = dict(training.run())
    assert reports["cache"]["encoded"] == 2 + 1 + 2
    assert training.corpora().fill() == 0
    made = tmp_path / "out" / "transformer" / "previews" / "000001"
    assert (made / "captions.txt").read_text() == "00 a red ball\n01 a blue ring\n"
    sizes = []
    for number in range(2):
        with av.open(str(made / f"{number:02d}.mp4")) as container:
            sizes.append((container.streams.video[0].width, container.streams.video[0].height))
    assert sizes == [(80, 48), (64, 64)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "has no lines"),
        ("{", r"prompts.jsonl:1 is not"),
        ('{"image": "a.png"}', "KeyError"),
        ('{"image": "a.png", "prompt": "x"}', r"there is no file .*a\.png"),
    ],
)
def test_a_prompt_file_that_says_something_else_is_refused(
    line: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "prompts.jsonl").write_text(line)
    with pytest.raises(InvalidRequest, match=said):
        read_prompts(tmp_path / "prompts.jsonl", ((64, 64),))
    with pytest.raises(InvalidRequest, match="cannot read"):
        read_prompts(tmp_path / "absent.jsonl", ((64, 64),))


def test_a_contact_sheet_has_a_row_a_video() -> None:
    ramp = np.arange(15, dtype=np.uint8)[:, None, None, None]
    wide = np.broadcast_to(ramp, (15, 4, 6, 3))
    tall = np.broadcast_to(ramp, (15, 6, 4, 3))
    sheet = contact_sheet([wide, tall])
    assert sheet.shape == (10, 48, 3)
    assert sheet[0, ::6, 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sheet[4, :32:4, 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert (sheet[4:, 32:] == 255).all()


def test_tensorboard_has_what_the_log_has(
    new_run: Callable[..., TransformerRun],
) -> None:
    list(new_run(tensorboard=True).advance(2))
    run = new_run(tensorboard=True)
    assert run.step == 2  # whether it is written is no other run
    *_, figures = run.advance()
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == figures.keys() - {"step"}
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [2, 4]
    assert losses[-1].value == pytest.approx(float(figures["loss"]))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_steps_and_time_left(new_run: Callable[..., TransformerRun]) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    list(new_run().advance(1))
    run, bar = new_run(), ProgressBar(terminal)
    run.observers += [bar, ProgressBar(pipe)]
    list(run.advance())
    bar.close()
    shown = terminal.getvalue().split("\r")
    assert "1/4" in shown[1]  # resumed
    assert "4/4" in shown[-1]
    assert "loss=" in shown[-1]
    assert "<" in shown[-1]  # elapsed < left
    assert not pipe.getvalue()
