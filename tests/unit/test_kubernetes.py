"""What deploy/kubernetes says, without a cluster: as the code has it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import AliasChoices

from choreo.chassis.installed import package_of
from choreo.chassis.kafka.admin.topics import FOREVER
from choreo.chassis.kafka.grants import Grant
from choreo.chassis.registry import all_topics, description_of, port_of
from choreo.chassis.settings import Settings
from choreo.operations.principals import grants_of_all
from tests.services import SERVICES

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
THINGS: dict[tuple[str, str], Any] = {
    (thing["kind"], thing["metadata"]["name"]): thing["spec"]
    for name in ("kafka.yml", "shop.yml")
    for thing in yaml.safe_load_all((FOLDER / name).read_text())
    if thing
}


def of_kind(kind: str) -> dict[str, Any]:
    return {name: spec for (there, name), spec in THINGS.items() if there == kind}


def test_topics_keep_everything_and_have_the_partitions_that_services_count_on() -> None:
    topics = of_kind("KafkaTopic")
    assert [*topics] == [topic for topic in all_topics() if topic.removesuffix("-events") in SERVICES]
    for topic in topics.values():
        assert topic["partitions"] == Settings.model_fields["partitions"].default
        assert FOREVER.items() <= topic["config"].items()


def test_users_are_granted_what_the_code_asks_for_and_no_more() -> None:
    wanted = grants_of_all(Settings.model_construct())
    for name, user in of_kind("KafkaUser").items():
        told = {
            Grant(
                {"DescribeConfigs": "DESCRIBE_CONFIGS"}.get(operation, operation.upper()),
                acl["resource"]["type"],
                acl["resource"].get("name", "kafka-cluster"),
            )
            for acl in user["authorization"]["acls"]
            for operation in acl["operations"]
        }
        assert told == wanted[name]
    assert of_kind("KafkaUser").keys() == {*SERVICES, "observer"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_run_and_asked_as_it_is_by_choreo_up(service: str) -> None:
    pod = of_kind("Deployment")[service]["template"]["spec"]
    (container,) = pod["containers"]
    port = port_of(service, Settings.model_construct())
    assert container["command"] == ["python", "-m", package_of(service)]
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    assert of_kind("Service")[service]["ports"] == [{"name": "http", "port": port}]
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/serving"
    variables = {one["name"] for one in container["env"]}
    assert ("SMTP_URL" in variables) == description_of(service).sends_mail
    assert {
        f"{service.upper()}_{what}" for what in ("DATABASE_URL", "KAFKA_USERNAME", "KAFKA_PASSWORD")
    } <= variables
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    known = {f"CHOREO_{name.upper()}" for name in Settings.model_fields}
    known |= {str(alias.choices[0]) for alias in aliases if isinstance(alias, AliasChoices)}
    assert {one for one in variables if not one.startswith(f"{service.upper()}_")} <= known


def test_pods_are_nobody_and_take_no_variable_of_the_cluster_for_a_setting() -> None:
    pods = [spec["template"]["spec"] for spec in (*of_kind("Deployment").values(), *of_kind("Job").values())]
    assert len(pods) == len(SERVICES) + 1
    for pod in pods:
        assert pod["enableServiceLinks"] is False and pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_migration_has_every_database_as_its_owner() -> None:
    (container,) = of_kind("Job")["migrate"]["template"]["spec"]["containers"]
    assert container["command"] == ["choreo", "migrate", "--grant"]
    assert [one["name"] for one in container["env"]] == [f"{name.upper()}_DATABASE_URL" for name in SERVICES]
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in container["env"]} == {"database-owners"}
