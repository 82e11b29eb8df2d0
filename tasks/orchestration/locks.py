"""Locks that hold across processes and machines, kept by the Prefect server."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """Hold the lock on an experiment's champion while the block runs, so that nothing else changes the champion.

    The lock is a concurrency limit of the Prefect server, which releases it a minute after its holder has died.

    Args:
        name: The experiment.
    """
    limit = GlobalConcurrencyLimitCreate(name=f"lstm-flows champion of {name}", limit=1)
    with get_client(sync_client=True) as api:
        try:
            api.read_global_concurrency_limit_by_name(limit.name)
        except ObjectNotFound:
            with suppress(ObjectAlreadyExists):  # another process created it in the meantime
                api.create_global_concurrency_limit(limit)
    with concurrency(limit.name, strict=True, lease_duration=60, raise_on_lease_renewal_failure=False):
        yield
