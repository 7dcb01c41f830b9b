"""MLflow as our child: what it is started with, its life, and that nothing of it outlives us."""

from proxy.mlflow_server.command import command, environment
from proxy.mlflow_server.generation import REASONS
from proxy.mlflow_server.supervise import MlflowServer

__all__ = ["REASONS", "MlflowServer", "command", "environment"]
