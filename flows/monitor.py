"""Flow `monitor`, for schedules: evaluate the champion on the newest rows and log the metrics to one run."""

from prefect import flow

from lstm_models.config import MonitorConfig, with_new_data
from tasks.lineage import find_version
from tasks.monitoring import monitor_champion
from tasks.orchestration.state_hooks import HOOKS
from tasks.schemas import MonitoringPoint


@flow(name="monitor", **HOOKS)
def monitor(config: MonitorConfig) -> MonitoringPoint:
    """Evaluate the champion on the test part of its current table and log the metrics as a new step.

    Args:
        config: The experiment and the rows.

    Returns:
        The logged step and its metrics; without a step if there are no new rows.

    Raises:
        LineageError: If there is no champion.
        TableError: If the data is invalid, or does not match what the champion was trained on.
        DataLeakageError: If the test rows are among those that the champion was trained on.
    """
    champion = find_version(config.experiment)
    return monitor_champion(with_new_data(champion.trained.config, config), champion)
