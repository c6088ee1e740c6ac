import pytest
import torch

from framepack.training.muon import Muon, orthogonalise


def test_an_update_moves_every_direction_alike() -> None:
    for shape in ((24, 60), (60, 24)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        matrix += 30 * matrix[:, :1] @ matrix[:1]  # one direction far ahead of all others
        values = torch.linalg.svdvals(orthogonalise(matrix, iterations=10))
        assert values.max() < 1.3
        assert values.median() > 0.5


def test_it_descends_a_badly_scaled_bowl() -> None:
    scales = torch.logspace(-0.5, 0.5, 8)
    weight = torch.nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    optimizer = Muon([{"params": [weight]}], lr=0.05)
    heights = []
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        optimizer.zero_grad()
        height = (scales[:, None] * weight.square()).sum()
        height.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        heights.append(height.item())
    assert heights[-1] < 0.02 * heights[0]


def test_it_evaluates_no_closure() -> None:
    optimizer = Muon([{"params": [torch.nn.Parameter(torch.ones(2, 2))]}])
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)
