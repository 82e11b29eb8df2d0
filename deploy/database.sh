#!/usr/bin/env bash
# Create the servers' role and databases, as PostgreSQL's superuser. A second run only sets the password.
set -euo pipefail
source "$(dirname "$0")/servers.env"
: "${PGPASSWORD:?set it to the password for the role $PGUSER}"
: "${SUPERUSER_PSQL:=sudo -u postgres psql}" # as root without sudo: runuser -u postgres -- psql
role=$PGUSER password=${PGPASSWORD//\'/\'\'}
unset PGHOST PGUSER PGPASSWORD # these are the servers' credentials, not the superuser's

cd / # a directory that every user may read
$SUPERUSER_PSQL --no-psqlrc --quiet --set ON_ERROR_STOP=1 --port "$PGPORT" --dbname postgres <<SQL
SELECT 'CREATE ROLE "$role"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '$role') \gexec
ALTER ROLE "$role" LOGIN PASSWORD '$password';
SELECT format('CREATE DATABASE %I OWNER "$role" ENCODING UTF8 TEMPLATE template0', name)
FROM unnest('{prefect,mlflow,mlflow_auth}'::text[]) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
SQL
