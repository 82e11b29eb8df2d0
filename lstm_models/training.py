"""Fit a network, and go on from a checkpoint."""

import logging
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers import Logger

from lstm_models.checkpoint import Continuity, check_resumable
from lstm_models.config import Contender
from lstm_models.data.loader import SequenceLoader
from lstm_models.data.tables import Sequences
from lstm_models.module import SequenceModule
from lstm_models.network import Network, build_network
from lstm_models.replicas import Replicas


@dataclass(frozen=True)
class Fit:
    """What a training did: epochs and steps counted from the very beginning, the last epoch's mean loss, seconds."""

    epochs: int
    steps: int
    loss: float
    seconds: float


def new_network(contender: Contender, sequences: Sequences, seed: int) -> Network | Replicas:
    """The contender's untrained network: what it is depends on the contender and the seed alone.

    Of replicas the first has this seed, the second the next, and so on.
    """
    networks = []
    for own_seed in range(seed, seed + contender.replicas):
        L.seed_everything(own_seed % 2**32, verbose=False)
        networks.append(build_network(contender.model, input_size=sequences.x_BTD.size(-1)))
    return Replicas(networks) if contender.replicas > 1 else networks[0]


def fit(
    contender: Contender,
    sequences: Sequences,
    *,
    seed: int,
    save_to: Path,
    resume_from: Path | None = None,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[L.Callback] = (),
) -> Fit:
    """Train a contender, from its seed or on from a checkpoint, and write the checkpoint of its last epoch.

    Resuming takes up weights, optimizer, epoch, and random state, so N epochs and N more are bit-identical to 2N.

    Args:
        contender: what to train and how. From a seed it trains to training.max_epochs, from a checkpoint on to
            fine_tuning.max_epochs.
        sequences: what to train on.
        seed: of the initial weights, of dropout, and of the order of sequences.
        save_to: the checkpoint file to write.
        resume_from: the checkpoint file to go on from.
        loggers: Lightning's, for the curves.
        callbacks: Lightning's, beside the one that keeps the random state.

    Raises:
        CheckpointError: if resume_from is no checkpoint of this network, or has trained that long already.
        NonFiniteLoss: if the loss becomes NaN or infinite; no checkpoint is written then.
        KeyboardInterrupt: on Ctrl-C.
    """
    training = contender.training
    input_size = sequences.x_BTD.size(-1)
    max_epochs = training.max_epochs if resume_from is None else contender.fine_tuning.max_epochs
    if resume_from:
        check_resumable(resume_from, contender, input_size, max_epochs)
    module = SequenceModule(new_network(contender, sequences, seed), training)
    loader = SequenceLoader(sequences, batch_size=training.batch_size, shuffle=training.shuffle, seed=seed)
    with _quiet_lightning():
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=max_epochs,
            log_every_n_steps=training.log_every_n_steps,
            logger=list(loggers),
            callbacks=[Continuity(contender, input_size), *callbacks],
            gradient_clip_val=training.clip_norm,
            enable_checkpointing=False,  # a file is written once, at the end, not at every epoch
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        began = time.perf_counter()
        with _ctrl_c_as_usual(), _threads(training.threads):
            trainer.fit(module, train_dataloaders=loader, ckpt_path=resume_from, weights_only=True)
        seconds = time.perf_counter() - began
        trainer.save_checkpoint(save_to)
    return Fit(trainer.current_epoch, trainer.global_step, module.epoch_loss, seconds)


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
