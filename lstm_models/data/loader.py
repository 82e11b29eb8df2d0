"""Batches of sequences that are held in memory."""

from collections.abc import Iterator

import numpy as np
import torch

from lstm_models.data.tables import Sequences


class SequenceLoader:
    """Iterates over batches of sequences, each epoch in the order that the seed and the epoch's number give.

    A torch DataLoader collates single items in Python and draws from the global random state at each epoch. This one
    slices tensors, and its order depends on nothing but (seed, epoch), so that a resumed training sees the order that
    it would have seen.
    """

    def __init__(self, sequences: Sequences, *, batch_size: int, shuffle: bool, seed: int) -> None:
        self.sequences = sequences
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.sequences.y_B) // self.batch_size)

    def __iter__(self) -> Iterator[Sequences]:
        # A generator: the order is drawn at the first batch, when Lightning has set the epoch (it asks for the
        # iterator before that).
        x_BTD, y_B = self.sequences
        if self.shuffle:
            # SeedSequence mixes the two into 32 bits, which is all that torch's generator takes of a seed
            mixed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
            generator = torch.Generator().manual_seed(mixed)
            order = torch.randperm(len(y_B), generator=generator)
            x_BTD, y_B = x_BTD[order], y_B[order]
        for start in range(0, len(y_B), self.batch_size):
            stop = start + self.batch_size
            yield Sequences(x_BTD[start:stop], y_B[start:stop])
