"""`python -m mlflow_proxy_client`: login, logout and whoami, also where the command is not on the path."""

from mlflow_proxy_client.cli import client

client(prog_name="mlflow-proxy")
