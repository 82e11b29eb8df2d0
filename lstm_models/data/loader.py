"""Batches of examples, in an order that depends on the seed and the epoch only."""

from collections.abc import Iterator

import numpy as np
import torch

from lstm_models.data.windows import Batch, Examples


class BatchLoader:
    """Iterator over batches of examples; with shuffle, the seed and the epoch determine the order.

    A torch DataLoader collates single items in Python and draws from the global random state in each epoch. This loader
    indexes a whole batch at once, and its order depends on (seed, epoch) only, so a resumed training sees the same
    order as an uninterrupted one. Its state is the position within an epoch: Lightning saves it in checkpoints, and
    restores it from a checkpoint that was written in the middle of an epoch.
    """

    def __init__(self, examples: Examples, *, batch_size: int, shuffle: bool = False, seed: int = 0) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._first = 0  # index of the batch at which the next iteration starts
        self._position = 0  # number of batches yielded in this epoch
        if shuffle:
            self.sampler = (
                self  # Lightning calls set_epoch on it; a validation loader's sampler would need more methods
            )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; Lightning calls this."""
        self.epoch = epoch

    @property
    def order(self) -> dict[str, int | None]:
        """Settings that determine the order within an epoch; a saved position is valid only if they are equal."""
        return {
            "count": self.examples.count,
            "batch_size": self.batch_size,
            "seed": self.seed if self.shuffle else None,
        }

    def state_dict(self) -> dict[str, int | None]:
        """Return the position within the epoch, and the settings that determine the order."""
        return {"position": self._position, **self.order}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start only the next iteration at the saved position; at the end of an epoch that is the first batch."""
        self._first = state_dict["position"] % len(self)

    def __len__(self) -> int:
        """Return the number of batches of a complete epoch, wherever the next iteration starts."""
        return -(-self.examples.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: the order is drawn at the first batch, because Lightning sets the epoch after it has asked for
        # the iterator.
        first, self._first = self._first, 0
        count = self.examples.count
        order = None
        if self.shuffle:
            # SeedSequence mixes both into 32 bits; torch's generator uses no more than that of a seed
            mixed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
            order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed))
        for number in range(first, len(self)):
            self._position = number + 1
            start, stop = number * self.batch_size, min((number + 1) * self.batch_size, count)
            yield self.examples.get_batch(torch.arange(start, stop) if order is None else order[start:stop])
