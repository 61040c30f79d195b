"""The Kubernetes manifests are what the API takes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSION = "1.33"
_COUNT = {"type": "integer", "minimum": 0}
#: The parts of KEDA's ScaledObject (keda.sh/v1alpha1, its custom resource definition) that we use; no others are known.
SCALED_OBJECT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["scaleTargetRef", "triggers"],
    "properties": {
        "scaleTargetRef": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        "minReplicaCount": _COUNT,
        "maxReplicaCount": _COUNT | {"minimum": 1},
        "pollingInterval": _COUNT | {"minimum": 1},
        "cooldownPeriod": _COUNT,
        "fallback": {
            "type": "object",
            "additionalProperties": False,
            "required": ["failureThreshold", "replicas"],
            "properties": {
                "failureThreshold": _COUNT,
                "replicas": _COUNT,
                "behavior": {
                    "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
                },
            },
        },
        "triggers": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "metadata"],
                "properties": {
                    "type": {"const": "prometheus"},
                    "metricType": {"enum": ["AverageValue", "Value"]},
                    "metadata": {
                        "type": "object",
                        "required": ["serverAddress", "query", "threshold"],
                        "additionalProperties": {"type": "string"},
                    },
                },
            },
        },
    },
}


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(FOLDER.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in yaml.safe_load_all(path.read_text()):
                yield path.name, document


def pods() -> Iterator[dict[str, Any]]:
    for _, document in manifests():
        if document["kind"] == "Deployment":
            yield document["spec"]["template"]["spec"]


def test_each_manifest_is_listed_and_no_other() -> None:
    """`kubectl apply -k` applies all that lies there."""
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]

    assert sorted(listed) == sorted({name for name, _ in manifests()} | {"../redis"})


def test_redis_is_that_of_deploy_redis() -> None:
    """Its entry script with the files beside it, from a ConfigMap, and passwords for each of its users."""
    [redis] = [pod["containers"][0] for pod in pods() if pod["containers"][0]["name"] == "redis"]
    base = yaml.safe_load((FOLDER.parent / "redis" / "kustomization.yaml").read_text())
    [made] = base["configMapGenerator"]
    secrets = {
        pod["containers"][0]["name"]: [source["secretRef"]["name"] for source in pod["containers"][0]["envFrom"][-1:]]
        for pod in pods()
    }

    assert redis["command"] == ["/bin/sh", "/etc/embedmill/redis/entry.sh"]
    assert {path.name for path in (FOLDER.parent / "redis").iterdir()} == {*made["files"], "kustomization.yaml"}
    assert {name for name, _ in read_variables()} <= {told["name"] for told in redis["env"]} | {"REDIS_TLS_DIR"}
    assert secrets == {"redis": ["redis"], "coordinator": ["coordinator"], "worker": ["worker"]}


def read_variables() -> list[tuple[str, str]]:
    """REDIS_* variables that the entry script reads, and their defaults."""
    script = (FOLDER.parent / "redis" / "entry.sh").read_text()
    return [pair for pair in re.findall(r"\$\{(REDIS_\w+):-([^}]*)\}", script) if pair[0] != "REDIS_TLS_PORT"]


@pytest.mark.parametrize(("name", "document"), list(manifests()), ids=lambda value: str(value)[:40])
def test_a_manifest_is_valid(name: str, document: dict[str, Any]) -> None:
    """Core objects against the schemas of the API server, strictly; KEDA's against those of its resource."""
    if document["kind"] == "ScaledObject":
        jsonschema.validate(document["spec"], SCALED_OBJECT)
    else:
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_what_scales_is_there() -> None:
    """Each ScaledObject names a deployment; no deployment that is scaled says how many."""
    deployments = {d["metadata"]["name"]: d for _, d in manifests() if d["kind"] == "Deployment"}
    scaled = [d["spec"]["scaleTargetRef"]["name"] for _, d in manifests() if d["kind"] == "ScaledObject"]

    assert sorted(scaled) == ["worker-cpu", "worker-gpu24"]
    assert all("replicas" not in deployments[name]["spec"] for name in scaled)


def test_pods_may_do_little() -> None:
    """No root, no privileges, no writable system, no token of the cluster, a limit on memory; time to hand back."""
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            allowed = container["securityContext"]
            assert allowed["readOnlyRootFilesystem"] and not allowed["allowPrivilegeEscalation"]
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            if "worker" in container.get("args", []):
                assert pod["terminationGracePeriodSeconds"] > 2 * 20
