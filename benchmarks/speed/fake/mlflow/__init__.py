"""Stands in MLflow's place, so that what is measured is the proxy: put on PYTHONPATH for it."""
