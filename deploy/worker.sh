#!/usr/bin/env bash
# Create the work pool, the automation and the deployments of prefect.yaml, and start a worker.
set -euo pipefail
cd "$(dirname "$0")/.."
source deploy/servers.env
: "${MLFLOW_TRACKING_PASSWORD:?set it to the password of the user $MLFLOW_TRACKING_USERNAME}"
prefect work-pool inspect lstm-flows >/dev/null 2>&1 ||
  prefect work-pool create --type process lstm-flows
prefect automation inspect "crash silent flow runs" >/dev/null 2>&1 ||
  prefect automation create --from-file deploy/automation.yaml
prefect --no-prompt deploy --all
exec prefect worker start --pool lstm-flows
