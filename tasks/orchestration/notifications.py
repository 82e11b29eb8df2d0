"""What is told to others: to a webhook, about failures and about who is champion."""

import logging
import os

import httpx
import prefect.runtime.flow_run

WEBHOOK_VARIABLE = "LSTM_FLOWS_WEBHOOK"  # no setting: such a URL is a secret, and settings are stored
TIMEOUT_SECONDS = 10.0

logger = logging.getLogger("lstm_flows")


def send(event: str, message: str, *, experiment: str | None = None, flow_run: str | None = None) -> None:
    """POST a JSON object to the webhook that the environment names, if it names one.

    Its keys: event (failure, promotion or rollback); message, a sentence; text, the same, which chat programs show;
    experiment and flow_run, or null. One that can't be delivered is a warning: nothing fails of it.
    """
    if not (url := os.environ.get(WEBHOOK_VARIABLE)):
        return
    run = flow_run or prefect.runtime.flow_run.id
    notice = {"event": event, "message": message, "text": message, "experiment": experiment, "flow_run": run}
    try:
        httpx.post(url, json=notice, timeout=TIMEOUT_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # whose text may hold the URL
        reason = (
            f"status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else type(error).__name__
        )
        logger.warning("%s: the notice of a %s was not delivered (%s)", WEBHOOK_VARIABLE, event, reason)
