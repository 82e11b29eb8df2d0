"""Locks that hold across processes and machines, kept by the Prefect server."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """Nobody else changes who is champion of this experiment as long as the block lasts.

    Prefect's server keeps the lock, and takes it back a minute after its holder has died.
    """
    limit = GlobalConcurrencyLimitCreate(name=f"lstm-flows champion of {name}", limit=1)
    with get_client(sync_client=True) as api:
        try:
            api.read_global_concurrency_limit_by_name(limit.name)
        except ObjectNotFound:
            with suppress(ObjectAlreadyExists):  # since
                api.create_global_concurrency_limit(limit)
    with concurrency(limit.name, strict=True, lease_duration=60, raise_on_lease_renewal_failure=False):
        yield
