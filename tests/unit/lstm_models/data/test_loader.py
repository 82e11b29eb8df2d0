"""Batches: each sequence once per epoch, in an order that depends on the seed and the epoch only."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lstm_models.data.loader import BatchLoader
from lstm_models.data.sequences import Sequences


def numbered(count: int) -> Sequences:
    """Return sequences; number n has the values n and -n, and the target n."""
    y_B = torch.arange(float(count))
    return Sequences(torch.stack([y_B, -y_B], dim=1).unsqueeze(-1), y_B)


def order(loader: BatchLoader) -> list[int]:
    return [int(label) for batch in loader for label in batch.y]


SEEDS, EPOCHS = st.integers(0, 2**32 - 1), st.integers(0, 2**20)


@given(count=st.integers(1, 20), batch_size=st.integers(1, 25), shuffle=st.booleans(), seed=SEEDS, epoch=EPOCHS)
def test_an_epoch_holds_each_sequence_once(count: int, batch_size: int, shuffle: bool, seed: int, epoch: int) -> None:
    sequences = numbered(count)
    loader = BatchLoader(sequences, batch_size=batch_size, shuffle=shuffle, seed=seed)
    loader.set_epoch(epoch)
    batches = list(loader)

    labels = [label for batch in batches for label in batch.y.tolist()]
    assert (sorted(labels) if shuffle else labels) == list(range(count))
    for x_BTD, y_B, lengths_B in batches:
        assert torch.equal(x_BTD, torch.stack([y_B, -y_B], dim=1).unsqueeze(-1))
        assert lengths_B is None
    assert len(batches) == len(loader)
    assert all(len(batch.y) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1].y) <= batch_size
    assert torch.equal(sequences.y_B, torch.arange(float(count)))  # unchanged


@given(seed=SEEDS, epoch=EPOCHS, global_seed=SEEDS)
def test_the_order_neither_depends_on_the_global_random_state_nor_changes_it(
    seed: int, epoch: int, global_seed: int
) -> None:
    torch.manual_seed(0)
    first = BatchLoader(numbered(30), batch_size=4, shuffle=True, seed=seed)
    first.set_epoch(epoch)
    expected = order(first)

    torch.manual_seed(global_seed)
    before = torch.get_rng_state()
    again = BatchLoader(numbered(30), batch_size=7, shuffle=True, seed=seed)
    again.set_epoch(epoch)
    assert order(again) == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_each_seed_and_epoch_has_a_different_order() -> None:
    orders = set()
    for seed in range(10):
        loader = BatchLoader(numbered(30), batch_size=4, shuffle=True, seed=seed)
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            orders.add(tuple(order(loader)))
    assert len(orders) == 20
    assert tuple(range(30)) not in orders


@given(count=st.integers(1, 12), batch_size=st.integers(1, 13), shuffle=st.booleans(), data=st.data())
def test_a_restored_loader_completes_the_epoch_and_the_next_epoch_is_complete(
    count: int, batch_size: int, shuffle: bool, data: st.DataObject
) -> None:
    def loader() -> BatchLoader:
        return BatchLoader(numbered(count), batch_size=batch_size, shuffle=shuffle, seed=5)

    whole = loader()
    position = data.draw(st.integers(1, len(whole)), label="position")
    whole.set_epoch(3)
    batches = iter(whole)
    for _ in range(position):
        next(batches)
    state = whole.state_dict()
    assert all(value is None or type(value) is int for value in state.values())
    remaining = [int(label) for batch in batches for label in batch.y]

    resumed = loader()
    resumed.load_state_dict(state)
    assert len(resumed) == len(whole)
    resumed.set_epoch(3)
    assert order(resumed) == (remaining or order(whole))  # a completed epoch starts again
    for again in (resumed, whole):
        again.set_epoch(4)
    assert order(resumed) == order(whole)
    assert resumed.state_dict() == whole.state_dict() == {**state, "position": len(whole)}
