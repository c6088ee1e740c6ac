"""Prometheus' and Alertmanager's own programs on their files; each alert has a case and a page."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.system import require_program

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = "with $externalLabels.runbook }}{{ . }}{{ else }}docs/runbook.md{{ end"
"""Of the template in each link: the operator's own page where there is one."""


def alerts() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((DEPLOY / "prometheus/rules/framepack.yml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def run(program: str, package: str, *arguments: str) -> None:
    command = [require_program(program, package), *arguments]
    result = subprocess.run(command, cwd=DEPLOY, capture_output=True, check=False, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_takes_its_configuration_and_rules() -> None:
    run("promtool", "prometheus", "check", "config", "prometheus/prometheus.yml")


def test_alerts_fire_for_their_faults_and_not_without() -> None:
    run("promtool", "prometheus", "test", "rules", "prometheus/rules_test.yml")


def test_alertmanager_takes_its_configuration() -> None:
    run("amtool", "prometheus-alertmanager", "check-config", "alertmanager/alertmanager.yml")


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    loaded = yaml.safe_load((DEPLOY / "prometheus/rules_test.yml").read_text())
    cases = [case for test in loaded["tests"] for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert firing == quiet == {alert["alert"] for alert in alerts()}


def test_every_alert_leads_to_its_page_of_the_runbook() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert headings == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        link = alert["annotations"]["runbook_url"]
        assert link == f"{{{{ {PAGE} }}}}#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in ("page", "ticket")


def test_the_rules_are_handed_to_a_clusters_prometheus_as_the_page_says() -> None:
    page = (ROOT / "docs/operate.md").read_text()
    command = page[page.index("{ printf") :].partition(" | kubectl")[0]
    made = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, check=True)
    resource = yaml.safe_load(made.stdout)
    rules = yaml.safe_load((DEPLOY / "prometheus/rules/framepack.yml").read_text())
    assert (resource["kind"], resource["spec"]) == ("PrometheusRule", rules)
