"""`mlflow-proxy doctor`: tries everything that the service hangs on, and says how to mend what fails."""
