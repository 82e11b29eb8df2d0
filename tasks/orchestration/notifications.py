"""Notifications to a webhook, about failures and changes of the champion."""

import logging
import os

import httpx
import prefect.runtime.flow_run

WEBHOOK_VARIABLE = "LSTM_FLOWS_WEBHOOK"  # no setting: such a URL is a secret, and settings are stored
TIMEOUT_SECONDS = 10.0

logger = logging.getLogger("lstm_flows")


def send(event: str, message: str, *, experiment: str | None = None, flow_run: str | None = None) -> None:
    """POST a JSON object to the webhook in the environment variable LSTM_FLOWS_WEBHOOK, if it is set.

    A notification that cannot be delivered is a warning in the log; it raises no error.

    Args:
        event: "failure", "promotion" or "rollback".
        message: A sentence. It is also sent as `text`, the key that chat programs display.
        experiment: The experiment; null in the JSON object if None.
        flow_run: The id of the flow run; None: the current flow run, or null if there is none.
    """
    if not (url := os.environ.get(WEBHOOK_VARIABLE)):
        return
    run = flow_run or prefect.runtime.flow_run.id
    notice = {"event": event, "message": message, "text": message, "experiment": experiment, "flow_run": run}
    try:
        httpx.post(url, json=notice, timeout=TIMEOUT_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # the error's text may contain the URL
        reason = (
            f"status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else type(error).__name__
        )
        logger.warning("%s: the %s notification was not delivered (%s)", WEBHOOK_VARIABLE, event, reason)
