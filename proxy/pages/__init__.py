"""What we answer ourselves: refusals, health, the waiting page; none of it needs MLflow."""
