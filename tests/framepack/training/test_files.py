"""Clips from files, down to a trained LoRA."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framepack.errors import InvalidRequest
from framepack.media.clips import encode_clip
from framepack.training.config import WorldData, read_config
from framepack.training.examples import same_size
from framepack.training.files import FileData, find_clips
from framepack.training.stages import Training
from framepack.training.transformer import Corpus
from framepack.world.render import render
from framepack.world.scene import draw_scene

BUCKETS = ((48, 80), (64, 64), (80, 48))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three videos of 50 frames at 30 per second with captions, one of them wide."""
    videos = tmp_path / "videos"
    (videos / "more").mkdir(parents=True)
    for seed, name in enumerate(("a", "b", "more/c")):
        frames = render(draw_scene(seed), 50).frames
        if name == "b":
            frames = np.ascontiguousarray(frames[:, 16:48])
        path = videos / f"{name}.mp4"
        path.write_bytes(encode_clip(frames, 0, 30).data)
        path.with_suffix(".txt").write_text(draw_scene(seed).caption + "\n")
    return videos


def data(folder: Path, **settings: object) -> FileData:
    return replace(FileData(str(folder), latent_frames=10), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        ({"extract": "head"}, [0]),
        ({"extract": "middle"}, [31]),
        ({"extract": "uniform", "count": 3}, [0, 32, 63]),
        ({"extract": "chunks"}, [0, 37]),
        ({"extract": "slide", "stride": 20}, [0, 20, 40, 60]),
        ({"extract": "full"}, [0]),
    ],
)
def test_what_is_cut_from_a_video_of_100_frames(
    settings: dict[str, object], starts: list[int]
) -> None:
    chosen = data(Path(), **settings)
    assert chosen.starts(100) == starts
    assert chosen.starts(36) == ([0] if chosen.extract == "full" else [])
    assert chosen.length(100) == 37
    assert chosen.length(36) == 33


def test_a_folder_becomes_fitted_captioned_clips(folder: Path, tmp_path: Path) -> None:
    training, held_out = find_clips(data(folder, extract="chunks", fps=60), BUCKETS, tmp_path)
    assert len(training) == 4
    assert len(held_out) == 2
    sizes = set()
    for source in (training, held_out):
        for index in range(len(source)):
            clip = source.clip(index)
            assert clip.frames.shape[0] == 37
            assert clip.caption in {draw_scene(seed).caption for seed in range(3)}
            sizes.add(clip.frames.shape[1:3])
    assert sizes == {(64, 64), (48, 80)}
    first, second = (training.clip(index).frames for index in (0, 1))
    assert np.abs(first[-1].astype(int) - second[0]).mean() < 3  # side by side
    assert np.abs(first[0].astype(int) - second[0]).mean() > 3


def test_content_decides_key_and_seed_not_place(folder: Path, tmp_path: Path) -> None:
    before, _ = find_clips(data(folder), BUCKETS, tmp_path)
    keys = {before.key(n): before.seed(n) for n in range(len(before))}
    for video in list(folder.glob("*.mp4")):
        for file in (video, video.with_suffix(".txt")):
            file.rename(folder / "more" / f"z{file.name}")
    after, _ = find_clips(data(folder), BUCKETS, tmp_path)
    assert {after.key(n): after.seed(n) for n in range(len(after))} == keys
    for text in folder.rglob("*.txt"):
        text.write_text("something else")
    other, _ = find_clips(data(folder), BUCKETS, tmp_path)
    slower, _ = find_clips(data(folder, fps=15, latent_frames=5), BUCKETS, tmp_path)
    for changed in (other, slower):
        assert not {changed.key(n) for n in range(len(changed))} & keys.keys()


def test_a_jsonl_file_names_videos_and_captions(folder: Path, tmp_path: Path) -> None:
    listed = folder / "list.jsonl"
    lines = [{"video": n, "caption": f"caption of {n}"} for n in ("a.mp4", "more/c.mp4")]
    listed.write_text("\n".join(map(json.dumps, lines)))
    training, held_out = find_clips(data(listed), BUCKETS, tmp_path)
    found = {source.clips[0].caption for source in (training, held_out)}
    assert found == {"caption of a.mp4", "caption of more/c.mp4"}
    for line, named in (
        ("{", "list.jsonl:1 is not"),
        ('{"video": "a.mp4"}', "KeyError"),
        ('{"video": "d.mp4", "caption": ""}', "list.jsonl:1: there is no file .*d.mp4"),
    ):
        listed.write_text(line)
        with pytest.raises(InvalidRequest, match=named):
            find_clips(data(listed), BUCKETS, tmp_path)


def test_nothing_is_left_out_in_silence(folder: Path, tmp_path: Path) -> None:
    def refused(settings: FileData, named: str) -> None:
        with pytest.raises(InvalidRequest, match=named):
            find_clips(settings, BUCKETS, tmp_path)

    refused(data(folder, latent_frames=20), r"has 50 frames at 30 per second, fewer than the 77")
    refused(data(folder, held_out=3), "3 videos in .*, of which 3 are held out")
    refused(data(folder / "absent"), r"neither a folder nor a \.jsonl file")
    (folder / "b.txt").unlink()
    refused(data(folder), r"b\.mp4 has no caption: write it to b\.txt")
    with pytest.raises(InvalidRequest, match=r"data.count: must be at least 1"):
        FileData("x", count=0)


RECIPE = """
start: {start}
data: {{path: {path}, latent_frames: {frames}, extract: slide, stride: 8, held_out: 1}}
transformer:
  run: {{rates: {{steps: 6, warmup: 1}}, report_every: 3, bfloat16: false}}
  arms: [{{name: forward, order: forward, share: 1}}]
  batch: 2
  held_out_batch: 2
  lora: {{rank: 2}}
"""


def test_videos_of_several_sizes_train_a_lora(
    folder: Path, nano_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "files.yaml"
    path.write_text(RECIPE.format(start=nano_folder, path=folder, frames=10))
    training = Training(read_config(path), tmp_path / "out")
    reports = dict(training.run())
    assert reports["cache"]["encoded"] == 3 * 2
    assert reports["transformer"]["step"] == 6
    assert training.corpora().fill() == 0
    corpus = training.corpora().load()
    assert {clip.latents.shape[2:] for clip in (*corpus.clips, *corpus.held_out)} == {
        (8, 8),
        (6, 10),
    }
    assert (tmp_path / "out" / "lora.safetensors").is_file()
    path.write_text(RECIPE.format(start=nano_folder, path=folder, frames=9))
    short = Training(read_config(path), tmp_path / "short")
    with pytest.raises(InvalidRequest, match=r"forward makes videos of 10 .* shortest clip has 9"):
        list(short.run())


def test_a_batch_shares_one_size(nano_corpus: Corpus) -> None:
    clips = list(nano_corpus.clips)
    rng = random.Random(0)
    before = rng.getstate()
    assert same_size(clips, rng) is clips
    assert rng.getstate() == before
    wide = replace(clips[0], latents=clips[0].latents[:, :, :4])
    drawn = [same_size([*clips, wide], rng) for _ in range(50)]
    assert {len(group) for group in drawn} == {1, len(clips)}
    assert sum(len(group) > 1 for group in drawn) > 25


def test_settings_choose_the_kind_of_data(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(RECIPE.format(start="tiny", path=folder, frames=10))
    assert isinstance(read_config(path).data, FileData)
    shutil.copy(path, tmp_path / "world.yaml")
    world = path.read_text().splitlines()
    world[2] = "data: {clips: 2, held_out: 1}"
    path.write_text("\n".join(world))
    assert isinstance(read_config(path).data, WorldData)
    world[2] = "data: {clips: 2, path: x}"
    path.write_text("\n".join(world))
    with pytest.raises(InvalidRequest, match=r"config.data: unknown settings: .*path"):
        read_config(path)
