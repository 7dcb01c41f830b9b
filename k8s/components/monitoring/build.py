"""Makes mlflow-prometheusrule.yaml of monitoring/prometheus: `python k8s/components/monitoring/build.py`."""

from __future__ import annotations

import textwrap
from pathlib import Path

HERE = Path(__file__).parent
RULES = sorted((HERE.parents[2] / "monitoring" / "prometheus").glob("*.rules.yml"))
TARGET = HERE / "mlflow-prometheusrule.yaml"
HEAD = """\
# Made from monitoring/prometheus/*.rules.yml by `python k8s/components/monitoring/build.py`: change those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: mlflow-proxy
  labels:
    app.kubernetes.io/name: mlflow-proxy
spec:
  groups:
"""


def made() -> str:
    """The whole file: a PrometheusRule's spec is what a rules file holds."""
    groups = (path.read_text().partition("\ngroups:\n")[2] for path in RULES)
    return HEAD + "".join(textwrap.indent(text, "  ") for text in groups)


if __name__ == "__main__":
    TARGET.write_text(made())
