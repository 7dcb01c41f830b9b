"""mlflow-proxy: an authenticating, measuring reverse proxy that supervises `mlflow server`."""

__version__ = "0.1.0"
