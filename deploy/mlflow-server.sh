#!/usr/bin/env bash
# Start the MLflow server on PostgreSQL, with basic authentication; it proxies artifact access.
set -euo pipefail
cd "$(dirname "$0")/.."
source deploy/servers.env
: "${MLFLOW_TRACKING_PASSWORD:?set it to the password of the user $MLFLOW_TRACKING_USERNAME, 12 characters or more}"
# The first start creates this user as administrator; changing the variable later does not change the password.
export MLFLOW_AUTH_ADMIN_USERNAME=$MLFLOW_TRACKING_USERNAME MLFLOW_AUTH_ADMIN_PASSWORD=$MLFLOW_TRACKING_PASSWORD
export MLFLOW_AUTH_CONFIG_PATH=deploy/mlflow-auth.ini
# Signs the sign-up form; a new random key per start, unless several servers share one.
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:=$(head -c 32 /dev/urandom | base64)}"
export MLFLOW_FLASK_SERVER_SECRET_KEY
exec mlflow server --app-name basic-auth --serve-artifacts
