from pathlib import Path

import pytest
import torch

from framepack.training.runlog import RunLog, load_state, save_state


def test_rows_after_a_resumed_step_are_forgotten(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.csv")
    for step in (10, 20, 30):
        log.write({"step": step, "loss": 1 / step})
    log.drop_after(20)
    log.write({"step": 30, "loss": 0.5})
    assert log.path.read_text().splitlines() == ["step,loss", "10,0.1", "20,0.05", "30,0.5"]


def test_columns_cannot_change(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.csv")
    log.write({"step": 1, "loss": 1.0})
    with pytest.raises(ValueError, match="columns"):
        log.write({"step": 2, "error": 1.0})


def test_a_state_comes_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    assert load_state(path) is None
    save_state(path, {"step": 3, "weights": torch.arange(3)})
    state = load_state(path)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]
