"""What steps leave in the metrics, with a real step cache on a real section."""

from pathlib import Path

import pytest
import torch

from framepack.generation.encode import encode
from framepack.generation.generate import sampling_settings
from framepack.generation.history import History
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.generation.section import sample_section
from framepack.generation.seeds import noise_generator
from framepack.generation.stepcache import TeaCacheSettings
from framepack.presets import load_preset
from worker.gpu import PEAK_TFLOPS, peak_flops
from worker.metrics import WorkerMetrics
from worker.steps import StepMeter, Work

STEPS = 6
FLOPS = 1000


@pytest.mark.parametrize(
    ("cfg_scale", "branches"), [(1.0, 1), (3.0, 2)], ids=["plain", "classifier-free guidance"]
)
def test_skipped_evaluations_are_counted_and_their_work_is_not(
    nano: Path, cfg_scale: float, branches: int
) -> None:
    """A threshold that is never reached computes the first and the last step only."""
    models = load_preset("tiny", nano, torch.device("cpu"))
    request = GenerationRequest("a ball", "tiny", seconds=1.0, steps=STEPS, cfg_scale=cfg_scale)
    plan = plan_generation(request, None)
    conditioning = encode(models.encoders, plan, None)
    settings = sampling_settings(plan, TeaCacheSettings(threshold=1e9))
    metrics = WorkerMetrics()
    meter = StepMeter(metrics, "tiny", Work(FLOPS, branches))
    steps = sample_section(
        models.transformer,
        conditioning,
        plan.sections[0],
        History(conditioning.start),
        settings,
        noise_generator(1),
    )
    for step in steps:
        meter.step(step.skipped)

    def shown(name: str) -> float | None:
        return metrics.registry.get_sample_value(f"framepack_{name}", {"preset": "tiny"})

    assert shown("cache_skipped_steps_total") == branches * (STEPS - 2)
    assert shown("model_flops_total") == FLOPS * branches * 2
    assert shown("step_seconds_count") == STEPS


def test_what_the_operator_says_of_the_device_goes_first() -> None:
    cpu = torch.device("cpu")
    assert peak_flops(cpu, None) == 0
    assert peak_flops(cpu, 0.5) == 5e11


def test_of_two_names_that_fit_the_longer_one_is_found() -> None:
    names = [name for name, _ in PEAK_TFLOPS]
    for place, name in enumerate(names):
        assert not any(earlier in name for earlier in names[:place])
