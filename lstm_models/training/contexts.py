"""Context managers around Trainer.fit: Lightning's messages, torch's threads and signals."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning

from lstm_models.training.callbacks import PeriodicCheckpoint


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's log messages below WARNING, and its warnings that do not apply to this program."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # "fewer batches in an epoch than log_every_n_steps": here steps are counted across epochs
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec")
            # checkpoints of an older version hold the state of a callback that no longer exists (patience)
            warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided")
            yield
    finally:
        for logger, log_level in zip(loggers, levels, strict=True):
            logger.setLevel(log_level)


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Set the number of torch's threads, then restore it; None keeps it.

    For small models one thread is fastest, especially when other processes run.
    """
    previous = torch.get_num_threads()
    torch.set_num_threads(number or previous)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


@contextmanager
def defer_sigterm(periodic: PeriodicCheckpoint) -> Iterator[None]:
    """Defer SIGTERM until the current step is finished and a checkpoint is written, then raise it again."""
    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or previous is signal.SIG_IGN:
        yield  # other threads receive no signals
        return

    periodic.handles_sigterm = True
    signal.signal(signal.SIGTERM, periodic.terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        if periodic.terminated:
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def restore_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C and restore the handler.

    Lightning exits with status 1 instead, and ignores Ctrl-C from then on.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
