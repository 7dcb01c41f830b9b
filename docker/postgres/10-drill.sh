#!/bin/sh
# Run once, by PostgreSQL's image, when the drill's server is made: a role that may create databases and nothing else.
# What a drill restores is a file from the storage of backups: as POSTGRES_USER, who may do everything, its SQL could
# run programs on the server and read its files.
set -eu
DRILL_PASSWORD=$(cat "${DRILL_PASSWORD_FILE:?is not set: see drill-database in docker-compose.mlflow.yaml}")
: "${DRILL_PASSWORD:?is empty: docker/make-env writes docker/secrets/drill-password}"
export DRILL_PASSWORD
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres <<'SQL'
\getenv password DRILL_PASSWORD
CREATE ROLE drill LOGIN NOSUPERUSER CREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
SQL
