"""Fit a network, and go on from a checkpoint."""

import logging
import math
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger

from lstm_models.checkpoint import Continuity, check_resumable
from lstm_models.config import Contender
from lstm_models.data.dataset import Dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.module import SequenceModule
from lstm_models.network import Network, build_network
from lstm_models.replicas import Replicas

AT_ONCE = 1024  # examples of a batch that is only looked at


@dataclass(frozen=True)
class Fit:
    """What a training did: epochs and steps counted from the very beginning, the last epoch's mean loss, seconds.

    best_epoch and best_loss are of the lowest validation loss; without validation, the last epoch's.
    """

    epochs: int
    steps: int
    loss: float
    seconds: float
    best_epoch: int
    best_loss: float


def new_network(contender: Contender, dataset: Dataset, seed: int) -> Network | Replicas:
    """The contender's untrained network: what it is depends on the contender and the seed alone.

    Of replicas the first has this seed, the second the next, and so on.
    """
    networks = []
    for own_seed in range(seed, seed + contender.replicas):
        L.seed_everything(own_seed % 2**32, verbose=False)
        networks.append(build_network(contender.model, dataset.input_size, dataset.output, dataset.scaling()))
    return Replicas(networks) if contender.replicas > 1 else networks[0]


class Best(L.Callback):
    """Writes a checkpoint whenever the validation loss is lower than ever in this training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loss = math.inf
        self.epoch = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val_loss"])
        if loss < self.loss:
            self.loss, self.epoch = loss, trainer.current_epoch + 1
            trainer.save_checkpoint(self.path)


class Patience(EarlyStopping):
    """Ends a training whose validation loss has not fallen for so many epochs; a resume begins to count anew."""

    def __init__(self, epochs: int) -> None:
        super().__init__("val_loss", patience=epochs, check_finite=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing of the training before."""


def fit(
    contender: Contender,
    dataset: Dataset,
    *,
    seed: int,
    save_to: Path,
    best_to: Path | None = None,
    resume_from: Path | None = None,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[L.Callback] = (),
) -> Fit:
    """Train a contender, from its seed or on from a checkpoint, and write the checkpoint of its last epoch.

    Resuming takes up weights, optimizer, schedule, epoch, and random state, so N epochs and N more are bit-identical to
    2N, unless the schedule depends on max_epochs, as cosine does. The patience begins anew.

    Args:
        contender: what to train and how. From a seed it trains to training.max_epochs, from a checkpoint on to
            fine_tuning.max_epochs.
        dataset: what to train on; and, where it has some, to validate on after each epoch.
        seed: of the initial weights, of dropout, and of the order of examples.
        save_to: the checkpoint file to write.
        best_to: the file for the checkpoint with the lowest validation loss; it is written where there is validation.
        resume_from: the checkpoint file to go on from.
        loggers: Lightning's, for the curves.
        callbacks: Lightning's, beside the one that keeps the random state.

    Raises:
        CheckpointError: if resume_from is no checkpoint of this network, or has trained that long already.
        NonFiniteLoss: if the loss becomes NaN or infinite; no checkpoint is written then.
        KeyboardInterrupt: on Ctrl-C.
    """
    training = contender.training
    max_epochs = training.max_epochs if resume_from is None else contender.fine_tuning.max_epochs
    if resume_from:
        check_resumable(resume_from, contender, dataset, max_epochs)
    module = SequenceModule(new_network(contender, dataset, seed), training)
    best = Best(best_to) if best_to and dataset.validation else None
    patience = Patience(training.patience) if training.patience and dataset.validation else None
    with _quiet_lightning():
        trainer = L.Trainer(
            accelerator=training.device,
            devices=1,
            precision=training.precision,
            max_epochs=max_epochs,
            log_every_n_steps=training.log_every_n_steps,
            logger=list(loggers),
            callbacks=[Continuity(contender, dataset), *filter(None, (best, patience)), *callbacks],
            gradient_clip_val=training.clip_norm,
            num_sanity_val_steps=0,
            enable_checkpointing=False,  # a file is written once, at the end, not at every epoch
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        began = time.perf_counter()
        with _ctrl_c_as_usual(), _threads(training.threads):
            trainer.fit(
                module,
                train_dataloaders=BatchLoader(
                    dataset.train, batch_size=training.batch_size, shuffle=training.shuffle, seed=seed
                ),
                val_dataloaders=BatchLoader(dataset.validation, batch_size=AT_ONCE) if dataset.validation else None,
                ckpt_path=resume_from,
                weights_only=True,
            )
        seconds = time.perf_counter() - began
        trainer.save_checkpoint(save_to)
    epoch, loss = (best.epoch, best.loss) if best else (trainer.current_epoch, module.epoch_loss)
    return Fit(trainer.current_epoch, trainer.global_step, module.epoch_loss, seconds, epoch, loss)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice for newcomers to Lightning from newcomers to this program."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # "fewer batches in an epoch than log_every_n_steps": the steps are counted across epochs here
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let torch use so many threads: for small models one is fastest, above all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _ctrl_c_as_usual() -> Iterator[None]:
    """On Ctrl-C Lightning exits with status 1, and ignores Ctrl-C from then on: undo both."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
