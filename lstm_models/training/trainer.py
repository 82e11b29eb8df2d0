"""Fit a network, and go on from a checkpoint."""

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers import Logger

from lstm_models.config import Contender
from lstm_models.data.dataset import Dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.nn.network import Network, build_network
from lstm_models.nn.replicas import Replicas
from lstm_models.training.callbacks import BestCheckpoint, PeriodicCheckpoint
from lstm_models.training.checkpoint import (
    TrainingStateCallback,
    describe_network,
    is_complete,
    latest_valid_checkpoint,
    load_network,
    read_checkpoint,
    validate_network,
    validate_resumable,
    write_checkpoint,
)
from lstm_models.training.module import SequenceModule

VALIDATION_BATCH_SIZE = 1024  # examples of a batch that is only looked at


@dataclass(frozen=True)
class FitResult:
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
        networks.append(build_network(contender.model, dataset.input_size, dataset.output, dataset.scaler()))
    return Replicas(networks) if contender.replicas > 1 else networks[0]


def fit(
    contender: Contender,
    dataset: Dataset,
    *,
    seed: int,
    last_path: Path,
    best_path: Path | None = None,
    resume_from: Path | None = None,
    init_from: Path | None = None,
    max_epochs: int | None = None,
    is_fine_tuning: bool = False,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[L.Callback] = (),
    on_snapshot: Callable[[], object] = lambda: None,
) -> FitResult:
    """Train a contender, from its seed or on from a checkpoint, and write the checkpoint of its last epoch.

    Resuming takes up weights, optimizer, schedule, epoch, position within the epoch, and random state. So a training
    that was interrupted, and goes on from a checkpoint that it wrote on its way (see checkpoint_every_n_steps) to the
    same max_epochs, ends bit-identically to one that was not, its curves, best epoch and patience included.

    To another max_epochs it is fine-tuning: N epochs and N more are bit-identical to 2N, unless the schedule depends on
    max_epochs, as cosine does; but the patience, and the search for the best epoch, begin anew.

    A warm start takes the weights of a checkpoint alone: epochs count from there, the optimizer is fresh. Either way
    scale and unit, which belong to the network, stay the checkpoint's.

    Args:
        contender: what to train and how.
        dataset: what to train on; and, where it has some, to validate on after each epoch.
        seed: of the initial weights, of dropout, and of the order of examples.
        last_path: the checkpoint file to write: at the end, and before that as often as the training's settings say.
        best_path: the file for the checkpoint with the lowest validation loss; it is written where there is validation.
        resume_from: the checkpoint file to resume from; last_path, if an interrupted training has written it. A damaged
            one is named in a warning, and the one before it is used.
        init_from: the checkpoint file to take the weights of, instead.
        max_epochs: how long to train, absolute; none: training.max_epochs, on from a checkpoint
            fine_tuning.max_epochs. Who goes on with an interrupted initial training gives training.max_epochs.
        is_fine_tuning: that it is fine-tuning, also where patience had saved just the epochs that are now to be added.
        loggers: Lightning's, for the curves. What an interrupted training has logged after its checkpoint is logged
            once more, the same.
        callbacks: Lightning's, beside the ones that keep the random state, watch the validation, write checkpoints.
        on_snapshot: called when a checkpoint has been written on the way.

    On SIGTERM the step is finished and a checkpoint written; then happens what would have happened without.

    Raises:
        ValueError: if both resume_from and init_from are given.
        CheckpointError: if it is no checkpoint of this network, or, to resume from, has trained that long, or was
            written in the middle of an epoch of other batches; or if the best checkpoint of a training that goes on is
            not in best_path.
        NonFiniteLoss: if the loss becomes NaN or infinite; no checkpoint is written from then on.
        KeyboardInterrupt: on Ctrl-C.
    """
    if resume_from and init_from:
        raise ValueError("resume_from and init_from given: a training begins from one checkpoint")
    training = contender.training
    if max_epochs is None:
        max_epochs = training.max_epochs if resume_from is None else contender.fine_tuning.max_epochs
    batches = BatchLoader(dataset.train, batch_size=training.batch_size, shuffle=training.shuffle, seed=seed)
    description, network = describe_network(contender, dataset), new_network(contender, dataset, seed)
    if resume_from:
        resume_from = latest_valid_checkpoint(resume_from)
    if before := resume_from or init_from:
        description, network = validate_network(before, contender, dataset), load_network(before).train()
    if resume_from:
        validate_resumable(resume_from, contender, batches, max_epochs, is_fine_tuning)
    module = SequenceModule(network, training)
    best = BestCheckpoint(best_path, training.patience, is_fine_tuning) if dataset.validation else None
    how_often = training.checkpoint_every_n_steps, training.checkpoint_every_n_minutes
    snapshots = PeriodicCheckpoint(last_path, *how_often, on_snapshot)
    with _quiet_lightning():
        trainer = L.Trainer(
            accelerator=training.device,
            devices=1,
            precision=training.precision,
            max_epochs=max_epochs,
            log_every_n_steps=training.log_every_n_steps,
            logger=list(loggers),
            callbacks=[TrainingStateCallback(description), *([best] if best else []), snapshots, *callbacks],
            gradient_clip_val=training.gradient_clip_norm,
            num_sanity_val_steps=0,
            enable_checkpointing=False,  # Lightning's own would write a file at every epoch
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        began = time.perf_counter()
        with _sigterm_after(snapshots):
            with _ctrl_c_as_usual(), _threads(training.num_threads):
                trainer.fit(
                    module,
                    train_dataloaders=batches,
                    val_dataloaders=BatchLoader(dataset.validation, batch_size=VALIDATION_BATCH_SIZE)
                    if dataset.validation
                    else None,
                    ckpt_path=resume_from,
                    weights_only=True,
                )
            seconds = time.perf_counter() - began
            write_checkpoint(trainer, last_path)
    epoch, loss = (best.epoch, best.loss) if best else (trainer.current_epoch, module.epoch_loss)
    return FitResult(trainer.current_epoch, trainer.global_step, module.epoch_loss, seconds, epoch, loss)


def completed_result(path: Path, contender: Contender, max_epochs: int) -> FitResult | None:
    """What a training to max_epochs has done, by its last checkpoint, if that is of its end; or None.

    The seconds, and the last epoch's loss where none was logged, are not there: 0 and NaN.

    Raises:
        CheckpointError: as `checkpoint.read`.
    """
    checkpoint = read_checkpoint(path)
    if not is_complete(checkpoint, contender, max_epochs):
        return None
    epochs, loss = checkpoint["epoch"], checkpoint["epoch_state"]["epoch_loss"]
    best = checkpoint.get("best") or {"epoch": epochs, "loss": loss}
    return FitResult(epochs, checkpoint["global_step"], loss, 0.0, best["epoch"], best["loss"])


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
            # a callback with a state, as patience had once, was there in the training before, and is not now
            warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided")
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
def _sigterm_after(snapshots: PeriodicCheckpoint) -> Iterator[None]:
    """Let SIGTERM wait until the step is done and a checkpoint written."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield  # other threads get no signals
        return

    snapshots.takes_sigterm = True
    signal.signal(signal.SIGTERM, snapshots.terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if snapshots.terminated:
            signal.raise_signal(signal.SIGTERM)


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
