"""What is written about the service while it runs: the access log and the application log."""

from proxy.logs.access import AccessLog, access_output
from proxy.logs.application import ApplicationLog, configure, mlflow_line

__all__ = ["AccessLog", "ApplicationLog", "access_output", "configure", "mlflow_line"]
