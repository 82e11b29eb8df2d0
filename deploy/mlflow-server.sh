#!/usr/bin/env bash
# MLflow's server, on PostgreSQL: takes and hands out the artifacts itself, and asks for a password.
set -euo pipefail
cd "$(dirname "$0")/.."
source deploy/servers.env
: "${MLFLOW_TRACKING_PASSWORD:?set it to the password, 12 characters or more, of the user $MLFLOW_TRACKING_USERNAME}"
# The first start makes this user, the administrator; another password given later changes nothing.
export MLFLOW_AUTH_ADMIN_USERNAME=$MLFLOW_TRACKING_USERNAME MLFLOW_AUTH_ADMIN_PASSWORD=$MLFLOW_TRACKING_PASSWORD
export MLFLOW_AUTH_CONFIG_PATH=deploy/mlflow-auth.ini
# Signs the page for new users; one of its own for each start, unless several servers share it.
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:=$(head -c 32 /dev/urandom | base64)}"
export MLFLOW_FLASK_SERVER_SECRET_KEY
exec mlflow server --app-name basic-auth --serve-artifacts
