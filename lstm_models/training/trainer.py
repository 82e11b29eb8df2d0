"""Train a network from a seed or from a checkpoint."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger

from lstm_models.config import Contender, Training
from lstm_models.data.dataset import Dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.nn.network import Network, build_network
from lstm_models.nn.replicas import Replicas
from lstm_models.training.callbacks import BestCheckpoint, PeriodicCheckpoint
from lstm_models.training.checkpoint import (
    TrainingStateCallback,
    describe_network,
    latest_valid_checkpoint,
    load_network,
    read_checkpoint,
    write_checkpoint,
)
from lstm_models.training.contexts import defer_sigterm, quiet_lightning, restore_ctrl_c, torch_threads
from lstm_models.training.module import SequenceModule
from lstm_models.training.resume import is_complete, validate_network, validate_resumable

VALIDATION_BATCH_SIZE = 1024  # without gradients, so larger than in training


@dataclass(frozen=True)
class FitResult:
    """Result of a training.

    Attributes:
        epochs: number of epochs, counted from the start of the initial training.
        steps: number of optimizer steps, counted likewise.
        loss: mean loss of the last epoch.
        seconds: duration.
        best_epoch: epoch with the lowest validation loss; without validation, the last epoch.
        best_loss: validation loss of that epoch; without validation, the last epoch's mean loss.
    """

    epochs: int
    steps: int
    loss: float
    seconds: float
    best_epoch: int
    best_loss: float


def new_network(contender: Contender, dataset: Dataset, seed: int) -> Network | Replicas:
    """Return the contender's untrained network, which depends on the contender, the dataset and the seed only.

    The first replica uses this seed, the second one the next, and so on.
    """
    networks = []
    for replica_seed in range(seed, seed + contender.replicas):
        L.seed_everything(replica_seed % 2**32, verbose=False)
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
    on_checkpoint: Callable[[], object] = lambda: None,
) -> FitResult:
    """Train a contender, from its seed or from a checkpoint, and write the checkpoint of its last epoch.

    Resuming restores weights, optimizer, schedule, epoch, position within the epoch, and random state. A training that
    is interrupted, and resumed from its latest checkpoint (see checkpoint_every_n_steps) to the same max_epochs, ends
    bit-identically to an uninterrupted one, including its curves, best epoch and patience.

    With another max_epochs the checkpoint is fine-tuned: N epochs and N more are bit-identical to 2N, unless the
    schedule depends on max_epochs, as cosine does. The patience and the search for the best epoch start again.

    A warm start loads only the weights of a checkpoint: epochs count from there, and the optimizer is fresh. In each
    case the scaling and the unit, which belong to the network, stay the checkpoint's.

    On SIGTERM the current step is finished and a checkpoint written, then the signal is raised again.

    Args:
        contender: the model and its training settings.
        dataset: the training data and, optionally, the validation data, evaluated after each epoch.
        seed: random seed of the initial weights, of dropout and of the order of examples.
        last_path: checkpoint file of the last epoch; also written periodically, as the training settings say.
        best_path: checkpoint file of the lowest validation loss; written only with validation data.
        resume_from: checkpoint file to resume from; last_path for an interrupted training. If it is damaged, a warning
            names it and the previous checkpoint is used.
        init_from: checkpoint file to take the weights from, for a warm start.
        max_epochs: number of epochs to train to, counted from the start; None: training.max_epochs, or with resume_from
            fine_tuning.max_epochs. To resume an interrupted initial training, pass training.max_epochs.
        is_fine_tuning: whether this is a new training even with the checkpoint's max_epochs, so that fine-tuning may
            add the epochs that early stopping saved.
        loggers: Lightning loggers for the curves. A resumed training logs the points after its checkpoint again, with
            the same values.
        callbacks: additional Lightning callbacks.
        on_checkpoint: called after each periodic checkpoint.

    Raises:
        ValueError: if both resume_from and init_from are given.
        CheckpointError: if the checkpoint is not of this network; when resuming, also if it has reached max_epochs, or
            was written in the middle of an epoch with other batches, or if best_path lacks the best checkpoint.
        NonFiniteLoss: if the loss becomes NaN or infinite; no checkpoint is written from then on.
        KeyboardInterrupt: on Ctrl-C.
    """
    if resume_from and init_from:
        raise ValueError("resume_from and init_from given: training starts from one checkpoint; pass one of them")
    training = contender.training
    if max_epochs is None:
        max_epochs = training.max_epochs if resume_from is None else contender.fine_tuning.max_epochs
    batches = BatchLoader(dataset.train, batch_size=training.batch_size, shuffle=training.shuffle, seed=seed)
    description, network = describe_network(contender, dataset), new_network(contender, dataset, seed)
    if resume_from:
        resume_from = latest_valid_checkpoint(resume_from)
    if checkpoint := resume_from or init_from:
        description, network = validate_network(checkpoint, contender, dataset), load_network(checkpoint).train()
    if resume_from:
        validate_resumable(resume_from, contender, batches, max_epochs, is_fine_tuning)
    module = SequenceModule(network, training)
    best = BestCheckpoint(best_path, training.patience, is_fine_tuning) if dataset.validation else None
    intervals = training.checkpoint_every_n_steps, training.checkpoint_every_n_minutes
    periodic = PeriodicCheckpoint(last_path, *intervals, on_checkpoint)
    checkpoint_callbacks = [TrainingStateCallback(description), *([best] if best else []), periodic]
    with quiet_lightning():
        trainer = _build_trainer(training, max_epochs, loggers, [*checkpoint_callbacks, *callbacks])
        seconds = _run(trainer, module, batches, dataset, resume_from, periodic)
    epoch, loss = (best.epoch, best.loss) if best else (trainer.current_epoch, module.epoch_loss)
    return FitResult(trainer.current_epoch, trainer.global_step, module.epoch_loss, seconds, epoch, loss)


def completed_result(path: Path, contender: Contender, max_epochs: int) -> FitResult | None:
    """Return the result of a completed training to max_epochs, from its last checkpoint; None if it is not complete.

    A checkpoint has no duration, so seconds is 0; loss is NaN if no loss of the last epoch was saved.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    checkpoint = read_checkpoint(path)
    if not is_complete(checkpoint, contender, max_epochs):
        return None
    epochs, loss = checkpoint["epoch"], checkpoint["epoch_state"]["epoch_loss"]
    best = checkpoint.get("best") or {"epoch": epochs, "loss": loss}
    return FitResult(epochs, checkpoint["global_step"], loss, 0.0, best["epoch"], best["loss"])


def _build_trainer(
    training: Training, max_epochs: int, loggers: Sequence[Logger], callbacks: list[L.Callback]
) -> L.Trainer:
    return L.Trainer(
        accelerator=training.device,
        devices=1,
        precision=training.precision,
        max_epochs=max_epochs,
        log_every_n_steps=training.log_every_n_steps,
        logger=list(loggers),
        callbacks=callbacks,
        gradient_clip_val=training.gradient_clip_norm,
        num_sanity_val_steps=0,
        enable_checkpointing=False,  # Lightning's callback would write a file at every epoch
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _run(
    trainer: L.Trainer,
    module: SequenceModule,
    batches: BatchLoader,
    dataset: Dataset,
    resume_from: Path | None,
    periodic: PeriodicCheckpoint,
) -> float:
    """Train, write the last checkpoint, and return the duration of the training in seconds."""
    start = time.perf_counter()
    with defer_sigterm(periodic):
        with restore_ctrl_c(), torch_threads(module.training_config.num_threads):
            trainer.fit(
                module,
                train_dataloaders=batches,
                val_dataloaders=BatchLoader(dataset.validation, batch_size=VALIDATION_BATCH_SIZE)
                if dataset.validation
                else None,
                ckpt_path=resume_from,
                weights_only=True,
            )
        seconds = time.perf_counter() - start
        write_checkpoint(trainer, periodic.path)
    return seconds
