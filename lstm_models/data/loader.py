"""Batches of examples, each epoch in an order of its own."""

from collections.abc import Iterator

import numpy as np
import torch

from lstm_models.data.windows import Batch, Examples


class BatchLoader:
    """Iterates over batches of examples, each epoch in the order that the seed and the epoch's number give.

    A torch DataLoader collates single items in Python and draws from the global random state at each epoch. This one
    takes a batch at once, and its order depends on nothing but (seed, epoch), so that a resumed training sees the order
    that it would have seen. Its state is the position within an epoch: Lightning puts it into checkpoints, and restores
    it where one was written in the middle of an epoch.
    """

    def __init__(self, examples: Examples, *, batch_size: int, shuffle: bool = False, seed: int = 0) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._first = 0  # the batch that the next iteration begins with
        self._position = 0  # how many of the epoch's batches have been given
        if shuffle:
            self.sampler = self  # where Lightning looks for set_epoch; of validation data it would ask for more

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls this."""
        self.epoch = epoch

    @property
    def order(self) -> dict[str, int | None]:
        """What the order of an epoch's examples depends on, beside the epoch: elsewhere a position says nothing."""
        return {
            "count": self.examples.count,
            "batch_size": self.batch_size,
            "seed": self.seed if self.shuffle else None,
        }

    def state_dict(self) -> dict[str, int | None]:
        return {"position": self._position, **self.order}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin the next iteration, and no other, where the saved one was; at an epoch's end that is the beginning."""
        self._first = state_dict["position"] % len(self)

    def __len__(self) -> int:
        """The batches of a whole epoch, wherever the next iteration begins."""
        return -(-self.examples.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: the order is drawn at the first batch, when Lightning has set the epoch (it asks for the
        # iterator before that).
        first, self._first = self._first, 0
        count = self.examples.count
        order = None
        if self.shuffle:
            # SeedSequence mixes the two into 32 bits, which is all that torch's generator takes of a seed
            mixed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
            order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed))
        for number in range(first, len(self)):
            self._position = number + 1
            start, stop = number * self.batch_size, min((number + 1) * self.batch_size, count)
            yield self.examples.get_batch(torch.arange(start, stop) if order is None else order[start:stop])
