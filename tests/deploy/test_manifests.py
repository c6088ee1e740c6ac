"""Compose, Kubernetes, Dockerfile and proxy, held to their specifications by real tools."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from dotenv import dotenv_values
from pydantic import ValidationError

from tests.support.system import require_program
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.parent for path in (DEPLOY / "k8s/overlays").glob("*/kustomization.yaml"))
KUBERNETES = "1.34"
SETTINGS = {f"FRAMEPACK_{name.upper()}" for name in WorkerSettings.model_fields}


def run(*command: str | Path, **options: Any) -> str:
    result = subprocess.run(command, capture_output=True, check=False, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    output: str = result.stdout
    return output


def tool(name: str) -> Path:
    """A program that a package of the test extra brought."""
    return Path(sys.executable).with_name(name)


@pytest.mark.parametrize("name", ["docker-compose.yml", "deploy/compose.gpu.yml"])
def test_compose_files_meet_the_specification(name: str) -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", ROOT / name)


def test_the_dockerfile_has_no_known_faults() -> None:
    run(tool("hadolint"), ROOT / "Dockerfile")


def test_compose_builds_what_the_dockerfile_has_and_hardens_it() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    targets = {
        line.split()[-1]
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("FROM")
    }
    ours = {name: each for name, each in compose["services"].items() if "build" in each}
    assert set(ours) == {"gateway", "worker", "store-bucket"}
    for service in ours.values():
        assert service["build"]["target"] in targets
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    redis = " ".join(compose["services"]["redis"]["command"])
    assert "--appendonly yes --appendfsync always" in redis
    assert "--maxmemory-policy noeviction" in redis


def test_no_log_of_a_container_fills_the_disk() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for service in compose["services"].values():
        assert service["logging"]["options"].keys() >= {"max-size", "max-file"}


def test_containers_are_given_the_time_that_workers_take_to_drain() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    grace = int(compose["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    drain = dotenv_values(DEPLOY / "env.example")["FRAMEPACK_DRAIN_SECONDS"]
    assert drain is not None
    assert float(drain) + 10 <= grace


def test_whoever_talks_to_the_outside_has_a_way_out() -> None:
    """Links and alerts: a network that is internal has neither a way out nor published ports."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    internal = {name for name, each in compose["networks"].items() if each.get("internal")}
    services = compose["services"]
    out = {name for name, each in services.items() if set(each["networks"]) - internal}
    published = {name for name, each in services.items() if each.get("ports")}
    assert out >= published | {"gateway", "alertmanager"}
    assert "redis" not in out


def test_compose_mounts_files_that_exist() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    sources = [
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
    ]
    sources += [each["file"] for each in compose["configs"].values() if "file" in each]
    local = [source for source in sources if source.startswith("./")]
    assert local
    assert [source for source in local if not (ROOT / source).exists()] == []


def test_grafana_and_prometheus_find_what_compose_names() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((provisioning / "dashboards/framepack.yml").read_text())[
        "providers"
    ]
    mounted = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounted["./deploy/grafana/dashboards"] == provider["options"]["path"]
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    alertmanagers = prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    named = {str(urlsplit(source["url"]).hostname), *(each.split(":")[0] for each in alertmanagers)}
    for scrape in prometheus["scrape_configs"]:
        named |= {name for each in scrape.get("dns_sd_configs", []) for name in each["names"]}
        for each in scrape.get("static_configs", []):
            named |= {target.split(":")[0] for target in each["targets"]}
    assert named - {"localhost"} <= set(services)
    for name in named - {"localhost"}:
        assert set(services[name]["networks"]) & set(services["prometheus"]["networks"])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: str(path.name))
def test_kubernetes_takes_the_manifests(overlay: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which is in no package list, builds the overlays")
    documents = list(yaml.safe_load_all(run("kubectl", "kustomize", overlay)))
    kinds = {document["kind"] for document in documents}
    assert kinds >= {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    for document in documents:
        if document["apiVersion"].startswith("keda.sh/"):
            continue  # which KEDA describes: below
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    for document in documents:
        if document["kind"] == "Deployment":
            _check_deployment(document)


@pytest.mark.parametrize("name", ["gateway", "worker", "network", "namespace"])
def test_kubernetes_takes_the_base_as_it_stands(name: str) -> None:
    """Also where no kubectl builds the overlays."""
    for document in yaml.safe_load_all((DEPLOY / f"k8s/base/{name}.yaml").read_text()):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        if document["kind"] == "Deployment":
            _check_deployment(document)


def _check_deployment(deployment: dict[str, Any]) -> None:
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 10001
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
    drain = [
        int(variable["value"])
        for variable in pod["containers"][0].get("env", [])
        if variable["name"] == "FRAMEPACK_DRAIN_SECONDS"
    ]
    assert all(seconds < pod["terminationGracePeriodSeconds"] for seconds in drain)


def test_workers_are_scaled_by_what_is_exported() -> None:
    scaled = yaml.safe_load((DEPLOY / "k8s/overlays/h100/scaling.yaml").read_text())
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"]["query"] == "sum(max by (preset) (framepack_backlog_gpu_seconds))"
    assert scaled["spec"]["minReplicaCount"] < scaled["spec"]["maxReplicaCount"]


def _overlay(name: str) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which is in no package list, builds the overlays")
    folder = DEPLOY / "k8s/overlays" / name
    return list(yaml.safe_load_all(run("kubectl", "kustomize", folder)))


def test_applying_the_manifests_again_leaves_to_keda_how_many_workers_there_are() -> None:
    documents = _overlay("h100")
    (scaled,) = [each for each in documents if each["kind"] == "ScaledObject"]
    target = scaled["spec"]["scaleTargetRef"]["name"]
    (worker,) = [
        each
        for each in documents
        if each["kind"] == "Deployment" and each["metadata"]["name"] == target
    ]
    assert "replicas" not in worker["spec"]


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_an_upgrade_waits_until_the_next_one_serves(name: str) -> None:
    """A pod without a probe of its readiness counts as ready while it loads for minutes."""
    text = (DEPLOY / f"k8s/base/{name}.yaml").read_text()
    deployment = next(iter(yaml.safe_load_all(text)))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert "readyz" not in str(container["livenessProbe"])


def _keda_misses(document: dict[str, Any]) -> bool:
    """Whether KEDA's own description of its resource lacks a field of a document."""
    known = ScaledObject.model_validate(document)
    read = known.model_dump(by_alias=True, exclude_unset=True, mode="json")
    return bool(read != document)


def test_keda_takes_its_resource_and_a_misspelt_field_would_be_found() -> None:
    document = yaml.safe_load((DEPLOY / "k8s/overlays/h100/scaling.yaml").read_text())
    assert not _keda_misses(document)
    document["spec"]["coolDownPeriod"] = document["spec"].pop("cooldownPeriod")
    assert _keda_misses(document)
    document["spec"]["maxReplicaCount"] = "many"
    with pytest.raises(ValidationError):
        _keda_misses(document)


def test_a_misspelt_field_would_be_found() -> None:
    manifest = yaml.safe_load(
        next(iter((DEPLOY / "k8s/base/gateway.yaml").read_text().split("\n---\n")))
    )
    manifest["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_only_settings_that_exist_are_set() -> None:
    files = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *DEPLOY.rglob("*")]
    named = {
        (path.name, name)
        for path in files
        if path.is_file()
        for name in re.findall(r"\b(FRAMEPACK_[A-Z_]+)\s*[=:,]", path.read_text())
    }
    substituted = {"FRAMEPACK_PUBLISH", "FRAMEPACK_WEIGHTS_FOLDER", "FRAMEPACK_RUNBOOK_URL"}
    assert {pair for pair in named if pair[1] not in SETTINGS | substituted} == set()


def test_the_proxy_takes_its_configuration(tmp_path: Path) -> None:
    program = require_program("nginx", "nginx-light")
    text = (DEPLOY / "proxy/nginx.conf").read_text()
    text = text.replace("/run/nginx.pid", str(tmp_path / "pid"))
    (tmp_path / "nginx.conf").write_text(text)
    run(program, "-t", "-q", "-c", tmp_path / "nginx.conf", "-p", tmp_path)
