import pytest
import torch

from service.contract.job import Lane
from tests.support.fleet import Fleet
from worker.gpu import Pace, WrongDevice, choose_device, device_name, memory_bytes, start_peak
from worker.process import MISCONFIGURED, run_lane
from worker.settings import WorkerSettings

CPU = torch.device("cpu")


def test_tiny_runs_on_a_cpu_and_the_released_models_do_not() -> None:
    assert choose_device("cpu", "", ["tiny"]) == CPU
    with pytest.raises(WrongDevice, match="framepack-f1, framepack-i2v"):
        choose_device("cpu", "", ["framepack-i2v", "tiny", "framepack-f1"])


def test_naming_the_cpu_means_it() -> None:
    assert choose_device("cpu", "cpu", ["framepack-i2v"]) == CPU


def test_another_device_than_expected_is_refused() -> None:
    with pytest.raises(WrongDevice, match="expects H100"):
        choose_device("cpu", "H100", ["tiny"])


@pytest.mark.parametrize("name", ["", "gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(WrongDevice):
        choose_device(name, "", ["tiny"])


def test_a_worker_on_the_wrong_device_does_not_start(fleet: Fleet) -> None:
    settings = WorkerSettings(**{**fleet.settings.model_dump(), "expect_device": "H100"})
    assert run_lane(Lane.DELIVER, settings) == MISCONFIGURED


def test_a_cpu_has_no_gpu_memory_and_is_never_ahead() -> None:
    assert device_name(CPU) == "cpu"
    assert memory_bytes(CPU) == {}
    assert [Pace(CPU).steps_done(queued) for queued in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_at_most_one_step_behind() -> None:
    device = torch.device("cuda")
    assert choose_device("cuda", torch.cuda.get_device_name(device)[:4], ["tiny"]) == device
    pace = Pace(device)
    matrix = torch.randn(4096, 4096, device=device)
    ends = []
    for queued in range(1, 6):
        for _ in range(10):
            matrix = torch.nn.functional.normalize(matrix @ matrix)
        ends.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
        ends[-1].record()
        assert pace.steps_done(queued) == queued - 1
        assert all(end.query() for end in ends[:-1])  # type: ignore[no-untyped-call]
    assert memory_bytes(device)["peak"] >= matrix.nbytes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_tasks_peak_starts_from_what_is_held_when_it_begins() -> None:
    cuda = torch.device("cuda")
    kept = torch.zeros(2**20, dtype=torch.uint8, device=cuda)
    big = torch.zeros(2**28, dtype=torch.uint8, device=cuda)
    assert memory_bytes(cuda)["peak"] >= 2**28
    del big
    start_peak(cuda)
    found = memory_bytes(cuda)
    assert kept.numel() <= found["peak"] < 2**28
    assert found["allocated"] <= found["peak"]
    assert found["reserved"] >= found["allocated"]
