"""sample(k): committed history in, one section's latents out, as a checkpoint."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import torch

from framepack.generation.generate import sampling_settings
from framepack.generation.history import History, sections_needed
from framepack.generation.restart import restarted
from framepack.generation.section import Step, sample_section
from framepack.generation.seeds import noise_generator
from framepack.types import Latents
from service.contract.job import Artifact
from worker.checkpoints import CONTENT_TYPE, SectionCheckpoint
from worker.gpu import Pace
from worker.steps import StepMeter, work_of
from worker.tasks.attempt import Attempt


def run(attempt: Attempt) -> Artifact:
    """Sample the task's section and store its checkpoint."""
    generator = _noise(attempt)
    conditioning = attempt.conditioning()
    skipping = attempt.models.step_cache(attempt.plan.request.quality)
    steps = sample_section(
        attempt.models.transformer,
        conditioning,
        attempt.section,
        restarted(
            attempt.section, _history(attempt), attempt.models.codec, attempt.plan.request.seed
        ),
        sampling_settings(attempt.plan, skipping, attempt.models.codebook),
        generator,
    )
    preset = attempt.models.preset.name
    with attempt.tools.reporter.settled():  # the last step is told while its section is stored
        with attempt.stage("dit"):
            meter = StepMeter(attempt.tools.metrics, preset, work_of(attempt))
            latents = _sampled(attempt, steps, meter)
        attempt.spent.append(meter.spent)
        checkpoint = SectionCheckpoint(latents, generator.get_state())
        stored = attempt.store("safetensors", checkpoint.to_bytes(), CONTENT_TYPE)
    attempt.tools.artifacts.remember(stored, checkpoint, checkpoint.num_bytes)
    return stored


def _noise(attempt: Attempt) -> torch.Generator:
    """The job's noise generator as the section before left it."""
    generator = noise_generator(attempt.plan.request.seed)
    if attempt.section.index > 0:
        generator.set_state(attempt.checkpoint(attempt.section.index - 1).generator)
    return generator


def _history(attempt: Attempt) -> History:
    """The committed latents that the section sees something of."""
    history = History(attempt.conditioning().start)
    for earlier in sections_needed(attempt.section, attempt.plan.sections):
        history.add(earlier.frames, attempt.checkpoint(earlier.index).latents)
    return history


def _sampled(attempt: Attempt, steps: Generator[Step, None, Latents], meter: StepMeter) -> Latents:
    """Drive the sampler, reporting every step; leaves at a step when the work should end."""
    pace = Pace(attempt.models.device)
    with meter.telling():
        previews = attempt.tools.previews.of(
            attempt.lease, attempt.models, attempt.plan.latent_size
        )
    total, reported = attempt.plan.steps, 0
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as finished:
                meter.span()
                _report(attempt, range(reported, total))
                latents: Latents = finished.value
                return latents
            with meter.telling():
                previews.queued(step)
            done = pace.steps_done(step.index + 1)
            with meter.telling():
                attempt.tools.reporter.hear()
                attempt.check()  # what the last report was answered, before there is another
                _report(attempt, range(reported, done))
                previews.done(done, total)
                attempt.check()
            meter.step(step.skipped)
            reported = done


def _report(attempt: Attempt, steps: range) -> None:
    for step in steps:
        attempt.tools.reporter.step(attempt.lease, step + 1, attempt.plan.steps)
        attempt.reach(f"step:{step + 1}")
