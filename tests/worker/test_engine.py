from pathlib import Path

import pytest
import torch

from framepack.errors import InvalidRequest
from service.contract.job import Lane
from worker.engine import Engine

CPU = torch.device("cpu")


def engine(lane: Lane, nano: Path) -> Engine:
    return Engine(lane, ["tiny"], {"tiny": str(nano)}, CPU)


@pytest.mark.parametrize(
    ("lane", "loaded"),
    [(Lane.RENDER, {"encoders", "transformer", "codec"}), (Lane.DELIVER, {"codec"})],
)
def test_a_lane_loads_what_it_needs_before_its_first_task(
    nano: Path, lane: Lane, loaded: set[str]
) -> None:
    loading = engine(lane, nano)
    parts = {"encoders", "transformer", "codec"}
    assert parts.isdisjoint(vars(loading["tiny"]))
    assert loading.load().keys() == {"tiny"}
    # The start picture is encoded with the codec, so the encoders bring it along.
    assert parts & set(vars(loading["tiny"])) == loaded


def test_an_engine_is_told_by_what_it_computes_with(nano: Path, tmp_path: Path) -> None:
    first, again = (engine(Lane.RENDER, nano).fingerprints() for _ in range(2))
    assert first == again
    assert engine(Lane.DELIVER, nano).fingerprints() != first
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert engine(Lane.RENDER, nano).fingerprints() != first
    finally:
        torch.set_num_threads(threads)


def test_unknown_presets_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        Engine(Lane.RENDER, ["huge"], {}, CPU)
    with pytest.raises(InvalidRequest):
        Engine(Lane.RENDER, ["tiny"], {"tiny": str(tmp_path / "nowhere")}, CPU)
