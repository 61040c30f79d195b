"""The alerts and the dashboard ask for metrics that there are."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "producer" / "coordinator_metrics.py", ROOT / "workers" / "metrics.py")


def exported() -> set[str]:
    """The names of metrics in the code, with the suffixes that the text format gives."""
    code = "".join(path.read_text() for path in SOURCES)
    names = set(re.findall(r'"(embedmill_[a-z_]+)"', code))
    names |= {f"embedmill_job_{name}" for name in re.findall(r'\("([a-z_]+)", "', code)}
    names |= {f"embedmill_job_shards_{name}" for name in re.findall(r'\("([a-z_]+)", "', code)}
    names.add("embedmill_job_silent_seconds")
    return names | {f"{name}_total" for name in names}


def expressions(name: str) -> list[str]:
    if name == "alerts":
        groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
        return [rule["expr"] for group in groups for rule in group["rules"]]
    board = json.loads((ROOT / "deploy/grafana/dashboards/embedmill.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("name", ["alerts", "dashboard"])
def test_each_metric_asked_for_is_exported(name: str) -> None:
    """A name that nobody exports would be an alert that never fires, or a panel that stays empty."""
    asked = {word for text in expressions(name) for word in re.findall(r"embedmill_[a-z_]+", text)}

    assert len(asked) > 5
    assert asked <= exported()


def test_no_label_is_one_that_prometheus_gives_itself() -> None:
    """Prometheus keeps `job` and `instance` for what it scrapes: ours would become exported_job, and match nothing."""
    labels = {
        name for path in SOURCES for word in re.findall(r'\[("[a-z_]+")\]', path.read_text()) for name in [word[1:-1]]
    }
    asked = {
        name
        for text in expressions("alerts")
        for found in re.findall(r"(?:on|by) \(([a-z_, ]+)\)", text)
        for name in re.split(", *", found)
    }

    assert {"queue", "outcome"} <= labels
    assert not labels & {"job", "instance"}
    assert asked <= labels


def test_an_alert_names_what_its_metrics_are_of() -> None:
    """A label that the metrics do not have would be an empty word in the middle of a message."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    named = {
        (r["alert"], n)
        for g in groups
        for r in g["rules"]
        for n in re.findall(r"labels[.]([a-z_]+)", str(r["annotations"]))
    }

    assert {name for _, name in named} == {"job_id", "queue"}
