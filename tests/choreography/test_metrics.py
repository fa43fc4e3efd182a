"""What the services measure, and that dashboard and alerts ask for nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from choreo.chassis.registry import port_of
from choreo.chassis.settings import Settings
from tests.services import SERVICES
from tests.shop import Shop

DEPLOY = Path(__file__).parents[2] / "deploy"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""By name and labels, those of a histogram's buckets among them."""

_FUNCTIONS = {"sum", "rate", "by", "histogram_quantile"}
_METRIC = re.compile(r"\b([a-z]\w*)(?:\{(.*?)\})?(?=[\[\s)]|$)")
_LABEL = re.compile(r"(\w+)\s*[=!]")


async def samples(shop: Shop, service: str) -> Samples:
    text = (await shop.clients[service].get("/metrics")).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def test_what_was_done_is_counted_by_type_and_outcome(shop: Shop) -> None:
    ada = await shop.customer("400.00")
    await ada.order("100.00", wait=30)
    await ada.order("100.00", key="once", wait=30)
    await ada.order("100.00", key="once")
    assert (await ada.withdraw("900.00")).status_code == 409
    await shop.notified(ada, 2)
    billing, order = await samples(shop, "billing"), await samples(shop, "order")
    assert value(order, "choreo_commands_total", type="PlaceOrder", outcome="applied") == 2
    assert value(order, "choreo_commands_total", type="PlaceOrder", outcome="duplicate") == 1
    assert value(order, "choreo_facts_decided_total", type="OrderCreated") == 2
    assert value(billing, "choreo_commands_total", type="Withdraw", outcome="refused") == 1
    assert value(billing, "choreo_facts_heard_total", type="OrderCreated", outcome="applied") == 2
    assert value(billing, "choreo_facts_decided_total", type="PaymentConfirmed") == 2
    route = {"http_request_method": "POST", "http_route": "/orders"}
    assert (
        value(order, "http_server_request_duration_seconds_count", **route, http_response_status_code="201")
        == 2
    )
    assert (
        value(order, "http_server_request_duration_seconds_count", **route, http_response_status_code="202")
        == 1
    )
    assert_only_what_is_measured_is_asked_for([*billing, *order])


def assert_only_what_is_measured_is_asked_for(measured: list[tuple[str, frozenset[tuple[str, str]]]]) -> None:
    """Names, and the labels that are selected or summed by."""
    labels: dict[str, set[str]] = {"up": set()}
    for name, pairs in measured:
        labels.setdefault(name, set()).update(dict(pairs))
    asked = [(name, label) for expression in expressions() for name, label in asked_for(expression)]
    assert len(asked) > 30
    unknown = {
        (name, label)
        for name, label in asked
        if label not in labels.get(name, set()) | {"", "service", "job"} or name not in labels
    }
    assert unknown == set()


def expressions() -> Iterator[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "shop.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def asked_for(expression: str) -> Iterator[tuple[str, str]]:
    """Each metric of an expression with each label it must have; with none, too."""
    summed = {label for labels in re.findall(r"by \((.*?)\)", expression) for label in labels.split(", ")}
    for name, selected in _METRIC.findall(re.sub(r"by \(.*?\)", "", expression)):
        if name not in _FUNCTIONS:
            yield name, ""
            yield from ((name, label) for label in summed | set(_LABEL.findall(selected)))


def test_it_sees_what_an_expression_asks_for() -> None:
    wanted = 'sum by (service, le) (rate(a_bucket{b!~"c|{d}",e="f"}[1m])) / rate(g_total[5m]) > 0.01'
    assert set(asked_for(wanted)) == {
        *(("a_bucket", label) for label in ("", "service", "le", "b", "e")),
        *(("g_total", label) for label in ("", "service", "le")),
    }


def test_every_service_is_scraped_where_it_listens() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    told = {scraped["labels"]["service"]: scraped["targets"] for scraped in job["static_configs"]}
    assert told == {name: [f"{name}:{port_of(name, Settings())}"] for name in SERVICES}
