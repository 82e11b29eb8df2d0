#!/usr/bin/env bash
# Start the Prefect server on PostgreSQL.
set -euo pipefail
source "$(dirname "$0")/servers.env"
exec prefect server start
