"""What the denoising steps of one section leave behind: seconds, operations, skips, spans.

All of it is arithmetic of the host on what the host knows anyway: nothing here asks the device, so
nothing waits for it. A span is of several steps; one a step would make a trace of thousands.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from framepack.models.flops import StepTokens, step_flops
from framepack.packing.schedule import BASE_KERNEL, Level
from service.contract.spent import Spent
from service.contract.tracing import past
from worker.metrics import WorkerMetrics
from worker.tasks.attempt import Attempt

STEPS_A_SPAN = 5


@dataclass(frozen=True)
class Work:
    """What one step asks of the model.

    Attributes:
        flops: Of one evaluation.
        evaluations: A step: guidance evaluates the model more than once.
    """

    flops: int
    evaluations: int


def work_of(attempt: Attempt) -> Work:
    """What each step of the attempt's section asks of the model."""
    plan, section = attempt.plan, attempt.section
    height, width = plan.latent_size
    levels = [Level(len(level.frames), level.kernel) for level in section.context]
    condition = attempt.conditioning().positive_condition(section.prompt)
    tokens = StepTokens(
        target=Level(len(section.frames), BASE_KERNEL).tokens(height, width),
        history=sum(level.tokens(height, width) for level in levels),
        text=condition.text.shape[1] + condition.image.shape[1],
    )
    evaluations = 1 + (plan.cfg_scale != 1.0) + (plan.history.guidance != 1.0)
    return Work(step_flops(attempt.models.transformer, tokens), evaluations)


class StepMeter:
    """Told of every step of one section.

    A span says when in it the sampler told of its steps instead of computing: from, to, from, to,
    ... in nanoseconds since its beginning.

    Args:
        metrics: Of the process.
        preset: Of the job.
        work: What a step asks of the model.
    """

    def __init__(self, metrics: WorkerMetrics, preset: str, work: Work) -> None:
        self._seconds = metrics.step_seconds.labels(preset)
        self._flops = metrics.model_flops.labels(preset)
        self._skipped = metrics.cache_skipped.labels(preset)
        self._work = work
        self._known = 0
        self._steps = self._spanned = 0
        self._began = time.perf_counter()
        self._begin_span()

    @property
    def spent(self) -> Spent:
        """Steps made so far, and evaluations that caches skipped."""
        return Spent(steps=self._steps, skipped=self._known)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What happens here is no work of the model: reports, previews."""
        began = time.perf_counter_ns()
        yield
        self._telling += [began - self._span_zero, time.perf_counter_ns() - self._span_zero]

    def step(self, skipped: int) -> None:
        """A step has been made; caches have skipped so many evaluations since the first."""
        now = time.perf_counter()
        new, self._known = skipped - self._known, skipped
        self._seconds.observe(now - self._began)
        self._flops.inc(self._work.flops * max(0, self._work.evaluations - new))
        self._skipped.inc(new)
        self._began = now
        self._steps += 1
        if self._steps - self._spanned >= STEPS_A_SPAN:
            self.span()

    def span(self) -> None:
        """Trace the steps since the last span, if there are any."""
        if self._steps > self._spanned:
            numbers: dict[str, int | list[int]] = {
                "framepack.steps.first": self._spanned,
                "framepack.steps.end": self._steps,
                "framepack.steps.telling_ns": self._telling,
            }
            past("steps", self._span_began, numbers)
        self._spanned = self._steps
        self._begin_span()

    def _begin_span(self) -> None:
        self._span_began, self._span_zero = time.time_ns(), time.perf_counter_ns()
        self._telling: list[int] = []
