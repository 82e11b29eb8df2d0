"""Batches: each sequence once an epoch, in an order that depends on nothing but the seed and the epoch."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_models.data.loader import BatchLoader
from lstm_models.data.tables import Sequences


def numbered(count: int) -> Sequences:
    """Sequence number n holds n and -n, and its target is n."""
    y_B = torch.arange(float(count))
    return Sequences(torch.stack([y_B, -y_B], dim=1).unsqueeze(-1), y_B)


def order(loader: BatchLoader) -> list[int]:
    return [int(label) for batch in loader for label in batch.y]


@given(
    count=st.integers(1, 20),
    batch_size=st.integers(1, 25),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 2**20),
)
@settings(deadline=None)  # a shared machine may pause for longer than the default allows
def test_an_epoch_holds_each_sequence_once(count: int, batch_size: int, shuffle: bool, seed: int, epoch: int) -> None:
    loader = BatchLoader(numbered(count), batch_size=batch_size, shuffle=shuffle, seed=seed)
    loader.set_epoch(epoch)
    batches = list(loader)

    assert sorted(label for batch in batches for label in batch.y.tolist()) == list(range(count))
    for x_BTD, y_B, lengths_B in batches:
        assert torch.equal(x_BTD, torch.stack([y_B, -y_B], dim=1).unsqueeze(-1))
        assert lengths_B is None
    assert len(batches) == len(loader)
    assert all(len(batch.y) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1].y) <= batch_size


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 2**20), elsewhere=st.integers(0, 2**32 - 1))
@settings(deadline=None)  # as above
def test_the_order_does_not_depend_on_the_global_random_state_nor_move_it(
    seed: int, epoch: int, elsewhere: int
) -> None:
    torch.manual_seed(0)
    first = BatchLoader(numbered(30), batch_size=4, shuffle=True, seed=seed)
    first.set_epoch(epoch)
    expected = order(first)

    torch.manual_seed(elsewhere)
    before = torch.get_rng_state()
    again = BatchLoader(numbered(30), batch_size=7, shuffle=True, seed=seed)
    again.set_epoch(epoch)
    assert order(again) == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_unshuffled_the_order_is_the_tables() -> None:
    loader = BatchLoader(numbered(10), batch_size=3, shuffle=False, seed=1)
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert order(loader) == list(range(10))


def test_shuffled_each_seed_has_an_order_of_its_own() -> None:
    orders = {tuple(order(BatchLoader(numbered(30), batch_size=4, shuffle=True, seed=s))) for s in range(20)}
    assert len(orders) == 20
    assert tuple(range(30)) not in orders


def test_shuffling_leaves_the_sequences_as_they_are() -> None:
    sequences = numbered(10)
    list(BatchLoader(sequences, batch_size=3, shuffle=True, seed=1))
    assert torch.equal(sequences.y_B, torch.arange(10.0))


@given(count=st.integers(1, 12), batch_size=st.integers(1, 13), shuffle=st.booleans(), data=st.data())
@settings(deadline=None)  # as above
def test_from_a_saved_position_an_epoch_goes_on_and_the_next_is_whole(
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
    left = [int(label) for batch in batches for label in batch.y]

    resumed = loader()
    resumed.load_state_dict(state)
    assert len(resumed) == len(whole)
    resumed.set_epoch(3)
    assert order(resumed) == (left or order(whole))  # an epoch that is over begins again
    for again in (resumed, whole):
        again.set_epoch(4)
    assert order(resumed) == order(whole)
    assert resumed.state_dict() == whole.state_dict() == {**state, "position": len(whole)}
