"""Limit the memory of a block."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def little_memory(limit: float) -> Iterator[None]:
    """Assert that Python allocates less than `limit` bytes in the block."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit
