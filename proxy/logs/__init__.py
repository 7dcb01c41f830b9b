"""What is written about the service while it runs: the access log and the application log."""

from proxy.logs.access import AccessLog
from proxy.logs.application import ApplicationLog, configure, mlflow_line

__all__ = ["AccessLog", "ApplicationLog", "configure", "mlflow_line"]
