"""What every training run has in common: steps, averaging, reports, saved state, exact resume.

Everything random in a step is drawn from its number, never from a generator that lives on, and
rates are functions of the step. So the state is the trained weights, their average and the
optimisers', and a run cut anywhere and resumed is the uncut one, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from framepack.errors import InvalidRequest
from framepack.training.average import Average, trained_parameters
from framepack.training.limits import check_ranges
from framepack.training.observers import Observer, TensorBoard
from framepack.training.processes import Processes, local, whole
from framepack.training.rates import RateSchedule
from framepack.training.runlog import Figures, RunLog, load_state, save_state

M = TypeVar("M", bound=nn.Module)

PEAK = "peak"
"""Key of an optimiser group's highest rate; the rate schedule scales it."""


@dataclass(frozen=True)
class RunSettings:
    """Of any run.

    Attributes:
        rates: Learning rates along the run.
        seed: Of everything drawn.
        average: Decay of the averaged weights.
        clip: Largest norm of the gradient.
        report_every: Steps between rows of the log.
        save_every: Steps between saved states.
        bfloat16: Autocast to bf16.
        tensorboard: Write reports as TensorBoard's event files too.
    """

    rates: RateSchedule
    seed: int = 0
    average: float = 0.995
    clip: float = 1.0
    report_every: int = 100
    save_every: int = 100
    bfloat16: bool = True
    tensorboard: bool = False

    def __post_init__(self) -> None:
        often = (1, math.inf)
        check_ranges(self, "run", report_every=often, save_every=often, average=(0, 1))
        check_ranges(self, "run", clip=(0, math.inf, True))


def identity_of(settings: Any) -> str:
    """Settings without what may change in the middle of a run, and without what is as by default.

    So a state stays good when a later version of this library has a new setting.

    Args:
        settings: A dataclass whose field ``run`` is a `RunSettings`.
    """
    kept = replace(
        settings.run, rates=RateSchedule(1), report_every=1, save_every=1, tensorboard=False
    )
    return _stated(replace(settings, run=kept))


def _stated(value: Any) -> str:
    """Like repr, without fields that have their default."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_stated, value)) + ")"
    if not is_dataclass(value):
        return repr(value)
    named = ((f, getattr(value, f.name)) for f in fields(value))
    stated = (f"{f.name}={_stated(v)}" for f, v in named if not _is_default(f, v))
    return f"{type(value).__name__}({', '.join(stated)})"


def _is_default(of: Field[Any], value: Any) -> bool:
    if of.default_factory is not MISSING:
        return bool(of.default_factory() == value)
    return of.default is not MISSING and bool(of.default == value)


class Run(ABC, Generic[M]):
    """A run with its state; `advance` goes on from wherever it stands."""

    def __init__(
        self,
        model: M,
        settings: RunSettings,
        folder: Path,
        identity: str,
        processes: Processes | None = None,
    ) -> None:
        """Prepare a run at step 0; call `resume` when the subclass is complete.

        Args:
            model: Trained in place, as far as its parameters require gradients.
            settings: Of the whole run.
            folder: For state and log.
            identity: Everything a resumed run must have in common with the saved one. Learning
                rates and reports need not be: a run may be lengthened.
            processes: That train together; each holds its own shards, if there are any.
        """
        self.model, self.run_settings, self.folder = model, settings, folder
        self.identity = identity
        self.processes = processes or Processes()
        self.step, self.seconds = 0, 0.0
        self.log = RunLog(folder / "log.csv")
        self.average = Average(model, settings.average)
        self.optimizers: Sequence[torch.optim.Optimizer] = ()
        self._running: list[float] = []  # losses since the last report
        self.observers: list[Observer] = []
        if settings.tensorboard and self.processes.main:
            self.observers.append(TensorBoard())

    @abstractmethod
    def losses(self) -> Iterator[Tensor]:
        """Of the current step: one for each part of its batch, which add up to the step's loss."""

    @abstractmethod
    def measure(self) -> Figures:
        """Figures of the averaged weights on held-out data."""

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.run_settings.rates.steps

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total_steps

    def advance(self, steps: int | None = None) -> Iterator[Figures]:
        """Train, yielding the figures of every report. Stops after so many steps, or at the end."""
        stop = self.total_steps if steps is None else min(self.total_steps, self.step + steps)
        running = self._running
        while self.step < stop:
            began = time.process_time()
            running.append(self._train_step())
            self.seconds += time.process_time() - began
            for observer in self.observers:
                observer.stepped(self, running[-1])
            if self._due(self.run_settings.report_every):
                mean = self.processes.mean(sum(running) / len(running))
                running.clear()
                yield self._report(mean)
            if self._due(self.run_settings.save_every):
                self.save()
        self.save()

    def autocast(self) -> torch.autocast:
        """The context that a forward pass runs in."""
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.run_settings.bfloat16)

    @contextmanager
    def averaged(self) -> Iterator[M]:
        """The model with the averaged weights, as it is generated with, while this lasts."""
        training = self.model.training
        with self.average.applied():
            yield self.model.eval()
        self.model.train(training)

    def averaged_weights(self) -> dict[str, Tensor]:
        """Averages of what is trained, whole and on the CPU; all processes must ask."""
        with self.average.applied(), torch.no_grad():
            parameters = trained_parameters(self.model)
            return {name: whole(p).detach().cpu().clone() for name, p in parameters.items()}

    def save(self) -> None:
        """Write the state, from which a new run goes on exactly."""
        parameters = trained_parameters(self.model)
        save_state(
            self._state_path,
            {
                "step": self.step,
                "seconds": self.seconds,
                "identity": self.identity,
                "running": list(self._running),
                "model": {name: local(p).detach() for name, p in parameters.items()},
                "average": self.average.values,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
            self.processes.wait,
        )

    def resume(self) -> None:
        """Go on from the folder's state, if there is one.

        Raises:
            InvalidRequest: It belongs to another run.
        """
        state = load_state(self._state_path)
        if state is None:
            if others := sorted(path.name for path in self.folder.glob("state*.pt")):
                raise InvalidRequest(
                    "out",
                    f"{self.folder} holds the state of another number of processes "
                    f"({', '.join(others)}), and this is {self.processes.count}: go on with as "
                    "many as it was cut with, or give another folder",
                )
            return
        if state["identity"] != self.identity:
            raise InvalidRequest(
                "out",
                f"{self.folder} holds the state of a run with other settings; "
                "give another folder, or delete it and the weights beside it",
            )
        if self.processes.mean(float(state["step"] != round(self.processes.mean(state["step"])))):
            raise InvalidRequest(
                "out",
                f"{self.folder} holds states of different steps, as the run was killed while it "
                "saved them; give another folder, or delete it and the weights beside it",
            )
        self._restore(state)

    @torch.no_grad()
    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        self._running = list(state.get("running", ()))  # states before had none
        for name, parameter in trained_parameters(self.model).items():
            local(parameter).copy_(state["model"][name])
            self.average.values[name].copy_(state["average"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.processes.main:
            self.log.drop_after(self.step)

    @property
    def _state_path(self) -> Path:
        rank, count = self.processes.rank, self.processes.count
        return self.folder / ("state.pt" if count == 1 else f"state-{rank}-of-{count}.pt")

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.finished

    def _train_step(self) -> float:
        share = self.run_settings.rates.at(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group[PEAK] * share
        self.model.zero_grad(set_to_none=True)
        total = 0.0
        device = self.average.parameters[0].device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # what PyTorch draws by itself, such as dropout
            torch.manual_seed(self.run_settings.seed + 7919 * self.step + self.processes.rank)
            for loss in self.losses():
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
        nn.utils.clip_grad_norm_(self.average.parameters, self.run_settings.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update(self.step)
        self.step += 1
        return total

    def _report(self, loss: float) -> Figures:
        figures = {"step": self.step, "cpu_seconds": self.seconds, "loss": loss, **self.measure()}
        if self.processes.main:
            self.log.write(figures)
        for observer in self.observers:
            observer.reported(self, figures)
        return figures
