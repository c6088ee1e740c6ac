from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framepack.generation.encode import encode
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.presets import Models
from framepack.training.cache import LatentCache
from framepack.training.sources import WorldClips
from framepack.training.transformer import Corpus
from framepack.world.scene import draw_scene


def test_clips_are_encoded_once(nano_cache: LatentCache, nano_corpus: Corpus) -> None:
    assert len(nano_corpus.clips) == 4
    times = {path: path.stat().st_mtime_ns for path in nano_cache.folder.iterdir()}
    assert len(times) == 6 + 1  # the empty prompt
    assert nano_cache.fill() == 0
    assert {path: path.stat().st_mtime_ns for path in nano_cache.folder.iterdir()} == times


def test_two_processes_can_share_the_work(nano_models: Models, tmp_path: Path) -> None:
    cache = LatentCache(WorldClips(0, 3, 5), nano_models, "nano", tmp_path)
    assert cache.fill(part=0, parts=2) == 2
    with pytest.raises(FileNotFoundError):
        cache.load(0.0)
    assert cache.fill(part=1, parts=2) == 1
    assert [clip.caption for clip in cache.load(0.0)] == [draw_scene(n).caption for n in range(3)]


def test_what_decides_the_content_decides_the_name(nano_cache: LatentCache) -> None:
    source = nano_cache.source
    assert isinstance(source, WorldClips)
    others = [
        LatentCache(changed, nano_cache.models, key, nano_cache.folder).path(0)
        for changed, key in (
            (source, "other encoders"),
            (replace(source, first_seed=1), "nano"),
            (replace(source, num_frames=5), "nano"),
            (replace(source, pixels=32), "nano"),
        )
    ]
    assert len({nano_cache.path(0), *others}) == 5
    assert replace(source, count=9).key(0) == source.key(0)  # more clips keep the old files


def test_a_clip_carries_what_generation_would_be_given(
    nano_models: Models, nano_corpus: Corpus
) -> None:
    clip = nano_corpus.clips[2]
    picture = WorldClips(0, 6, 1).clip(2).frames[0]
    plan = plan_generation(GenerationRequest(clip.caption, preset="tiny", seed=2), (64, 64))
    given = encode(nano_models.encoders, plan, picture)
    torch.testing.assert_close(clip.prompt.text, given.prompts[0].text)
    torch.testing.assert_close(clip.prompt.pooled, given.prompts[0].pooled)
    torch.testing.assert_close(clip.image, given.image)
    torch.testing.assert_close(clip.start, given.start, rtol=1e-3, atol=1e-3)


def test_captions_keep_apart(nano_corpus: Corpus) -> None:
    """Random towers must not map all prompts to nearly the same."""
    pooled = torch.cat([clip.prompt.pooled for clip in nano_corpus.clips])
    pooled = torch.nn.functional.normalize(pooled - pooled.mean(0), dim=-1)
    distances = torch.cdist(pooled, pooled) + torch.eye(len(pooled)) * 9
    assert distances.min() > 0.5
    assert 0.5 < nano_corpus.clips[0].prompt.text.std() < 3
