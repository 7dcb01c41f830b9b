#!/bin/sh
# Run once, by PostgreSQL's image, when the database is made: a user and a database for MLflow and the proxy. The
# user owns that database and is nothing beyond it; POSTGRES_USER, who may do everything, is for people.
set -eu
: "${MLFLOW_DATABASE_PASSWORD:?is not set: see mlflow-postgres.env.example}"
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres <<'SQL'
\getenv password MLFLOW_DATABASE_PASSWORD
CREATE ROLE mlflow LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE mlflow FROM PUBLIC;
SQL
