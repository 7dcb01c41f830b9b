"""`python -m proxy`: the same as `mlflow-proxy`."""

from proxy.cli import main

main()
