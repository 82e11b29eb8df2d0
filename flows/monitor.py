"""The watch: the champion on the newest rows, a point of a series each time."""

from prefect import flow

from lstm_models.config import MonitorConfig, with_new_data
from tasks.lineage import find_version
from tasks.monitoring import monitor_champion
from tasks.orchestration.state_hooks import HOOKS
from tasks.schemas import MonitoringPoint


@flow(name="monitor", **HOOKS)
def monitor(config: MonitorConfig) -> MonitoringPoint:
    """Judge an experiment's champion on the test part of its table as it is now.

    Args:
        config: which experiment, and which rows.

    Returns:
        The point that was added to the series, or none where nothing is new.

    Raises:
        LineageError: if there is no champion.
        TableError: if the data can't be used, or is not what the champion was trained on.
        NotHeldOut: if the rows to judge by are among those that the champion has learnt from.
    """
    champion = find_version(config.experiment)
    return monitor_champion(with_new_data(champion.trained.config, config), champion)
