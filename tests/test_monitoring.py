"""Rules, alerts and the examples: what Prometheus' programs say of them, and that each leads somewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from observers import MONITORING, RULES, of_the_documentation
from programs import needs

from proxy import metrics
from proxy.exchange import ERRORS, REFUSALS, RESENDS
from proxy.operations import OPERATIONS, OWN, UNKNOWN, UNPARSED

PROJECT = MONITORING.parent
RUNBOOKS = PROJECT / "docs" / "runbooks"
RULE_TESTS = sorted((MONITORING / "prometheus" / "tests").glob("*.test.yml"))
# The values that a label of ours may have, by its name.
VALUES = {
    "operation": {op.name for op in (*OPERATIONS, *OWN.values(), UNKNOWN, UNPARSED)},
    "status": {str(number) for number in range(100, 600)} | {"other"},
    "reason": ERRORS | REFUSALS | RESENDS | metrics.RESTART_REASONS | metrics.WAITS | {"other"},
    "result": metrics.AUTH_RESULTS | metrics.ROLLS | {"other"},
    "method": metrics.METHODS | metrics.AUTH_METHODS | {"other"},
    "kind": metrics.SLOT_KINDS | metrics.PROBLEMS,
    "within": set(metrics.WITHIN) | {"7d"},
    "probe": {"database", "storage", "provider", "certificate", "disk", "tokens"},
    "alertstate": {"firing"},
}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of the rules and of the dashboards, with where it stands."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for path in (MONITORING / "grafana" / "dashboards").glob("*.json"):
        for expr in re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', path.read_text()):
            yield path.name, expr.replace('\\"', '"')


@needs("promtool", "amtool")
def test_the_programs_take_the_rules_and_the_examples(tmp_path: Path) -> None:
    shutil.copytree(MONITORING / "prometheus", tmp_path / "prometheus")
    for name in ("metrics-token", "ca.pem"):
        (tmp_path / "prometheus" / name).touch()
    assert "rules found" in run("promtool", "check", "rules", RULES.name, cwd=tmp_path / "prometheus")
    run("promtool", "check", "config", "prometheus.yml", cwd=tmp_path / "prometheus")
    run("amtool", "check-config", "alertmanager.yml", cwd=MONITORING / "alertmanager")


@pytest.mark.slow
@needs("promtool")
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.name)
def test_each_alert_fires_when_it_should_and_only_then(path: Path) -> None:
    run("promtool", "test", "rules", path.name, cwd=path.parent)


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires, quiet = set(), set()
    for path in RULE_TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for one in case["alert_rule_test"]:
                assert one["alertname"] in case["name"], "the name tells of another alert"
                (fires if one["exp_alerts"] else quiet).add(one["alertname"])
    assert fires == quiet == set(ALERTS)


def test_every_series_that_is_asked_for_is_there() -> None:
    known = of_the_documentation() | RECORDED
    assert len(of_the_documentation()) > 30
    for where, expr in expressions():
        for name in re.findall(r"\bmlflow_proxy[\w:]*", expr):
            assert name in known, f"{where} asks for {name}"


def test_every_label_value_that_is_asked_for_exists() -> None:
    checked = 0
    for where, expr in expressions():
        for label, regex, text in re.findall(r'(\w+)(?:!|=)(=|~)?"([^"$]*)"', expr):
            if label not in VALUES:
                assert label in {"job", "alertname", "target"}, f"{where}: {label}"
                continue
            for value in text.split("|") if regex == "~" else [text]:
                matching = [one for one in VALUES[label] if re.fullmatch(value, one)]
                assert matching, f"{where}: no {label} is {value!r}"
                checked += 1
    assert checked > 50


def test_each_alert_says_what_it_means_and_leads_to_a_runbook() -> None:
    for name, alert in ALERTS.items():
        assert name.startswith("MlflowProxy")
        assert set(alert["labels"]) == {"severity"}
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert set(alert["annotations"]) == {"summary", "runbook_url"}, name
        assert alert["annotations"]["summary"].endswith("."), name
        assert (PROJECT / alert["annotations"]["runbook_url"]).is_file(), name


def test_each_runbook_names_its_alerts_and_the_first_three_things_to_look_at() -> None:
    leading: dict[str, set[str]] = {}
    for name, alert in ALERTS.items():
        leading.setdefault(Path(alert["annotations"]["runbook_url"]).name, set()).add(name)
    assert leading.keys() == {path.name for path in RUNBOOKS.glob("*.md")}
    for path in RUNBOOKS.glob("*.md"):
        text = path.read_text()
        line = re.search(r"^Alerts: (.*?)\.$", text, re.M | re.S)
        assert line is not None, path.name
        assert set(re.findall(r"`(\w+)`", line[1])) == leading[path.name], path.name
        assert "**What users notice:**" in text, path.name
        first = text.partition("## Look first at")[2].partition("\n## ")[0]
        assert re.findall(r"^(\d)\. ", first, re.M) == ["1", "2", "3"], path.name


def test_the_table_of_alerts_is_the_rules() -> None:
    rows = re.findall(
        r"^\| `(MlflowProxy\w+)` \| (\w+) \| \[.+?\]\((runbooks/[\w-]+\.md)\) \|",
        (PROJECT / "docs/operations.md").read_text(),
        re.M,
    )
    assert {name: (severity, link) for name, severity, link in rows} == {
        name: (alert["labels"]["severity"], alert["annotations"]["runbook_url"].removeprefix("docs/"))
        for name, alert in ALERTS.items()
    }


def test_each_probe_and_each_dashboard_is_explained() -> None:
    text = (PROJECT / "docs/operations.md").read_text()
    for probe in VALUES["probe"]:
        assert f"\n| `{probe}` | " in text, probe
    for path in (MONITORING / "grafana" / "dashboards").glob("*.json"):
        title = json.loads(path.read_text())["title"].partition(": ")[2]
        assert f"\n| {title} | " in text, title
    for path in (MONITORING / "logs").iterdir():
        assert path.name in text, path.name


def test_what_the_pages_for_operators_point_at_is_there() -> None:
    pages = [PROJECT / "docs/operations.md", *RUNBOOKS.glob("*.md")]
    for page in pages:
        text = page.read_text()
        for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{page.name}: #{anchor}"
        fields = (PROJECT / "docs/settings.md").read_text()
        for name in re.findall(r"`(PROXY_[A-Z_]+)[=`]", text):
            assert f"`{name}`" in fields, f"{page.name}: {name}"
        series = of_the_documentation() | RECORDED
        for name in re.findall(r"\bmlflow_proxy[\w:]*", text):
            assert name in series, f"{page.name}: {name}"


def test_the_examples_fit_each_other() -> None:
    config = yaml.safe_load((MONITORING / "prometheus/prometheus.yml").read_text())
    assert config["rule_files"] == [RULES.name]
    (scrape,) = config["scrape_configs"]
    # The alert for a scrape that fails from the beginning knows the job by its name.
    assert f'job=~".*{scrape["job_name"]}.*"' in ALERTS["MlflowProxyScrapeFailing"]["expr"]
    alerts = yaml.safe_load((MONITORING / "alertmanager/alertmanager.yml").read_text())
    receivers = {receiver["name"] for receiver in alerts["receivers"]}
    routes = [alerts["route"], *alerts["route"]["routes"]]
    assert {route["receiver"] for route in routes} == receivers
    for rule in alerts["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            label, pattern = re.fullmatch(r'(\w+)(?:!?=~?)"(.+)"', matcher).groups()  # type: ignore[union-attr]
            values = ALERTS if label == "alertname" else {"critical", "warning", "info"}
            assert any(re.fullmatch(pattern, value) for value in values), matcher
