#!/usr/bin/env bash
# Prefect's server, on PostgreSQL.
set -euo pipefail
source "$(dirname "$0")/servers.env"
exec prefect server start
