"""Signs MLflow's client in to a server behind mlflow-proxy (`mlflow-proxy login`), and keeps it signed in."""

__version__ = "0.1.0"
