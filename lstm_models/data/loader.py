"""Batches of examples, each epoch in an order of its own."""

from collections.abc import Iterator

import numpy as np
import torch

from lstm_models.data.examples import Batch, Examples


class BatchLoader:
    """Iterates over batches of examples, each epoch in the order that the seed and the epoch's number give.

    A torch DataLoader collates single items in Python and draws from the global random state at each epoch. This one
    takes a batch at once, and its order depends on nothing but (seed, epoch), so that a resumed training sees the order
    that it would have seen.
    """

    def __init__(self, examples: Examples, *, batch_size: int, shuffle: bool = False, seed: int = 0) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        if shuffle:
            self.sampler = self  # where Lightning looks for set_epoch; of validation data it would ask for more

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.examples.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: the order is drawn at the first batch, when Lightning has set the epoch (it asks for the
        # iterator before that).
        count = self.examples.count
        order = None
        if self.shuffle:
            # SeedSequence mixes the two into 32 bits, which is all that torch's generator takes of a seed
            mixed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
            order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed))
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            yield self.examples.take(torch.arange(start, stop) if order is None else order[start:stop])
