"""What watches a run without touching it: a progress bar, TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from framepack.training.optional import imported

Figures = Mapping[str, float | int | str]


class Observed(Protocol):
    """What an observer may read of a run."""

    step: int
    folder: Path

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        ...


class Observer(Protocol):
    """Told of every step and every report."""

    def stepped(self, run: Observed, loss: float) -> None:
        """After each step, which ``run.step`` already counts."""
        ...

    def reported(self, run: Observed, figures: Figures) -> None:
        """After each report."""
        ...


class ProgressBar:
    """Steps, time left, the last loss. Silent where nobody looks."""

    def __init__(self, file: TextIO | None = None) -> None:
        """Start nothing yet.

        Args:
            file: A terminal; standard error if None.
        """
        self._file = file
        self._bar: Any = None
        self._of: Path | None = None

    def stepped(self, run: Observed, loss: float) -> None:
        """See `Observer`."""
        if self._of != run.folder:
            self.close()
            name, total = run.folder.name, run.total_steps
            self._of = run.folder
            self._bar = tqdm(
                desc=name,
                total=total,
                initial=run.step - 1,
                unit="step",
                disable=None,
                file=self._file,
            )
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update()

    def reported(self, run: Observed, figures: Figures) -> None:
        """See `Observer`."""

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TensorBoard:
    """Every report's numbers as event files, in ``tensorboard`` beside the run's log."""

    def __init__(self) -> None:
        """Raises InvalidRequest if TensorBoard is not installed."""
        self._library = imported("torch.utils.tensorboard", "run.tensorboard")

    def stepped(self, run: Observed, loss: float) -> None:
        """See `Observer`."""

    def reported(self, run: Observed, figures: Figures) -> None:
        """See `Observer`."""
        # A writer a report: nothing is open when the process is killed. Steps after the one that
        # a run resumed from are purged, as from the log.
        with self._library.SummaryWriter(
            str(run.folder / "tensorboard"), purge_step=run.step
        ) as writer:
            for name, value in figures.items():
                if name != "step" and not isinstance(value, str):
                    writer.add_scalar(name, value, run.step)
