"""The dashboards: `python monitoring/grafana/build.py` writes dashboards/*.json from what stands here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from panels import ALL, DASHBOARDS, Dashboard, Panel, Query

FOLDER = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 24, 8


def placed(panels: Sequence[Panel]) -> Iterable[tuple[Panel, dict[str, int]]]:
    """Where each goes: from left to right, in rows as high as the highest of them."""
    x = y = row = 0
    for panel in panels:
        height = HEIGHT // 2 if panel.kind == "stat" else HEIGHT
        if x + panel.width > WIDTH:
            x, y, row = 0, y + row, 0
        yield panel, {"h": height, "w": panel.width, "x": x, "y": y}
        x, row = x + panel.width, max(row, height)


def target(number: int, query: Query, kind: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "refId": chr(ord("A") + number),
        "datasource": DATASOURCE,
        "expr": query.text,
        "legendFormat": query.legend or "__auto",
    }
    if kind in ("stat", "bargauge", "table"):
        made |= {"instant": True, "range": False}
    else:
        made |= {"instant": False, "range": True}
    if kind in ("table", "heatmap"):
        made["format"] = kind
    return made


def options(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case "stat" | "bargauge":
            made: dict[str, Any] = {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "orientation": "auto",
            }
            if panel.kind == "stat":
                made |= {"colorMode": "value", "graphMode": "none", "textMode": "auto"}
            else:
                made |= {"displayMode": "basic", "orientation": "horizontal"}
        case "heatmap":
            made = {"calculate": False, "yAxis": {"unit": panel.unit}, "tooltip": {"show": True}}
        case "table":
            made = {"showHeader": True}
        case _:
            made = {
                "legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
    return made | panel.options


def rendered_panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never", "lineWidth": 1}
        if panel.stacked:
            custom |= {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40}
        defaults["custom"] = custom
    if panel.thresholds:
        steps = [{"value": value, "color": color} for value, color in panel.thresholds]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["color"] = {"mode": "thresholds"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": [target(index, query, panel.kind) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options(panel),
    }


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def rendered(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["mlflow-proxy"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "links": [
            {
                "type": "dashboards",
                "title": "mlflow-proxy",
                "tags": ["mlflow-proxy"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "iconColor": "red",
                    "expr": f'ALERTS{{alertname=~"MlflowProxy.*",alertstate="firing",{ALL}}}',
                    "titleFormat": "{{alertname}}",
                    "textFormat": "{{severity}}",
                }
            ]
        },
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                },
                variable("job", "Service", "label_values(mlflow_proxy_build_info, job)"),
                variable(
                    "instance", "Replica", 'label_values(mlflow_proxy_build_info{job=~"$job"}, instance)'
                ),
            ]
        },
        "panels": [
            rendered_panel(number, panel, place)
            for number, (panel, place) in enumerate(placed(dashboard.panels), 1)
        ],
    }


def files() -> dict[str, str]:
    """What each file of dashboards/ has to be, by its name."""
    return {
        f"{dashboard.uid.removeprefix('mlflow-proxy-')}.json": json.dumps(rendered(dashboard), indent=2)
        + "\n"
        for dashboard in DASHBOARDS
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
