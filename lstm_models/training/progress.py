"""One line that tells how far a training is."""

import math
import time

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lstm_models.training.module import SequenceModule


class ProgressLine(L.Callback):
    """Shows name, epoch, loss and time left while a training runs, and leaves one line behind when it has ended.

    On a terminal the line lives; elsewhere, or where NO_COLOR is set, only the last one is printed.
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
        assert trainer.max_epochs is not None
        self._began = time.monotonic()
        self._task = self._progress.add_task(
            self.name, total=trainer.max_epochs, completed=trainer.current_epoch, loss="-"
        )
        self._progress.start()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.monotonic()
        if now - self._shown > 0.1:
            self._shown = now
            assert isinstance(pl_module, SequenceModule)
            # of the epoch before: Lightning asks callbacks first, and after the first epoch there is none yet
            loss = "-" if math.isnan(pl_module.epoch_loss) else f"{pl_module.epoch_loss:.3g}"
            self._progress.update(self._task, completed=trainer.current_epoch + 1, loss=loss)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._progress.stop()
        assert isinstance(pl_module, SequenceModule)
        seconds = time.monotonic() - self._began
        self.console.print(
            f"{self.name:<24} epoch {trainer.current_epoch:>5}  loss {pl_module.epoch_loss:<9.3g} {seconds:6.1f} s",
            highlight=False,
        )

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._progress.stop()
