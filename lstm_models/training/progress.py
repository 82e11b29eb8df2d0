"""The progress line of a training."""

import math
import time

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lstm_models.training.module import SequenceModule


class ProgressLine(L.Callback):
    """Callback that shows name, epoch, loss and remaining time, and prints a final line at the end of training.

    The line is updated in place on a terminal; elsewhere, or if NO_COLOR is set, only the final line is printed.

    Args:
        name: the name of the training.
        console: the console to print to.
    """

    def __init__(self, name: str, console: Console) -> None:
        self.name = name
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=24),
            TextColumn("epoch {task.completed:>5.0f}/{task.total:.0f}  loss {task.fields[loss]:<9}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=console.no_color or not console.is_terminal,
        )
        self._shown = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the line."""
        assert trainer.max_epochs is not None
        self._began = time.monotonic()
        self._task = self._progress.add_task(
            self.name, total=trainer.max_epochs, completed=trainer.current_epoch, loss="-"
        )
        self._progress.start()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Update the line, at most ten times per second."""
        now = time.monotonic()
        if now - self._shown > 0.1:
            self._shown = now
            assert isinstance(pl_module, SequenceModule)
            # the previous epoch's loss, since Lightning calls callbacks before the module; NaN after the first epoch
            loss = "-" if math.isnan(pl_module.epoch_loss) else f"{pl_module.epoch_loss:.3g}"
            self._progress.update(self._task, completed=trainer.current_epoch + 1, loss=loss)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the line by the final one."""
        self._progress.stop()
        assert isinstance(pl_module, SequenceModule)
        seconds = time.monotonic() - self._began
        self.console.print(
            f"{self.name:<24} epoch {trainer.current_epoch:>5}  loss {pl_module.epoch_loss:<9.3g} {seconds:6.1f} s",
            highlight=False,
        )

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the line."""
        self._progress.stop()
