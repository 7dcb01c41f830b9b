"""A stand-in for MLflow that a test puts on PYTHONPATH: a real process that misbehaves as it is told."""
