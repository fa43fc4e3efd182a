"""The published API documents are what the code says, valid, and their examples are real."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker
from openapi_spec_validator import validate

from choreo.chassis.http import body
from choreo.cli.programmes.docs import FOLDER, documents
from choreo.message.catalog import published_by
from choreo.message.codec import Record, decode
from tests.services import SERVICES, TOPICS

Json = dict[str, Any]

HEARD = {
    "user": set(),
    "order": {"user-events", "billing-events"},
    "billing": {"user-events", "order-events"},
    "notification": {"user-events", "billing-events"},
}


@pytest.fixture(scope="module")
def made() -> dict[str, Json]:
    return {name: json.loads(text) for name, text in documents().items()}


def test_the_published_documents_are_current() -> None:
    published = {path.name: path.read_text() for path in FOLDER.iterdir()}
    stale = {name for name, text in documents().items() if published.get(name) != text}
    assert (stale, published.keys() - documents().keys()) == (set(), set()), "run `make docs`"


def references(part: object) -> Iterator[str]:
    match part:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for member in part.values():
                yield from references(member)
        case list():
            for member in part:
                yield from references(member)


def resolve(document: Json, reference: str) -> Any:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


# OpenAPI.


@pytest.mark.parametrize("service", SERVICES)
def test_openapi_is_valid(made: dict[str, Json], service: str) -> None:
    validate(made[f"{service}.openapi.json"])


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_is_described(made: dict[str, Json], service: str) -> None:
    for path, methods in made[f"{service}.openapi.json"]["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"] and operation["description"], (method, path)
            assert {"413", "500", "503"} <= operation["responses"].keys()
            assert "default" not in operation["responses"], "every status is named"
            assert ("401" in operation["responses"]) >= ("security" in operation)
            assert all(
                parameter["description"]
                for parameter in operation.get("parameters", [])
                if parameter["in"] != "path"
            )
            for status, response in operation["responses"].items():
                kinds = response.get("content", {}).keys()
                assert status < "400" or kinds == {"application/problem+json"}, (method, path, status)


@pytest.mark.parametrize("service", SERVICES)
def test_the_examples_of_openapi_are_as_their_schemas_say(made: dict[str, Json], service: str) -> None:
    document = made[f"{service}.openapi.json"]
    bodies = {model.__name__: model for model in body.Body.__subclasses__() if "_service" in model.__module__}
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", []):
            whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
            Draft202012Validator(whole, format_checker=FormatChecker()).validate(example)
            if name in bodies:
                body.validate(bodies[name], body.parse_json(json.dumps(example).encode()))
    shown = {name for name, schema in document["components"]["schemas"].items() if schema.get("examples")}
    for methods in document["paths"].values():
        for operation in methods.values():
            wanted = operation.get("requestBody", {})
            assert {reference.rpartition("/")[2] for reference in references(wanted)} <= shown


# AsyncAPI. The format's own schema is in no Python package, so what it asks for is looked at here.


def faults(document: Json) -> list[str]:
    """What AsyncAPI 3.0 requires of a document such as ours, and is not so."""
    allowed = {
        "asyncapi": "3.0.0",
        "id": str,
        "info": dict,
        "defaultContentType": str,
        "servers": dict,
        "channels": dict,
        "operations": dict,
        "components": dict,
    }
    found = [f"unknown {name}" for name in document.keys() - allowed.keys()]
    if document.get("asyncapi") != "3.0.0":
        found.append("asyncapi is not 3.0.0")
    found += [f"info.{name} is missing" for name in ("title", "version") if not document["info"].get(name)]
    for name, server in document["servers"].items():
        found += [f"{name} has no {field}" for field in ("host", "protocol") if not server.get(field)]
    for reference in references(document):
        try:
            resolve(document, reference)
        except KeyError:
            found.append(f"{reference} leads nowhere")
    for name, operation in document["operations"].items():
        if operation.get("action") not in ("send", "receive"):
            found.append(f"{name} neither sends nor receives")
        channel = operation["channel"]["$ref"]
        if not channel.startswith("#/channels/"):
            found.append(f"{name} has no channel")
        for message in operation["messages"]:
            if not message["$ref"].startswith(f"{channel}/messages/"):
                found.append(f"{name} has a message that is not of its channel")
    for name, message in document["components"]["messages"].items():
        if message["headers"].get("type") != "object":
            found.append(f"the headers of {name} are no object")
        found += [
            f"an example of {name} is empty"
            for example in message["examples"]
            if not example.keys() & {"headers", "payload"}
        ]
    for schema in document["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_asyncapi_is_as_the_format_requires(made: dict[str, Json], service: str) -> None:
    assert faults(made[f"{service}.asyncapi.json"]) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("asyncapi", "2.6.0"),
        ("more", {}),
        ("info/title", ""),
        ("servers/local/host", ""),
        ("operations/publish/action", "publish"),
        ("operations/publish/channel/$ref", "#/components/messages/OrderCreated"),
        ("operations/publish/messages", [{"$ref": "#/components/messages/OrderCreated"}]),
        ("components/messages/OrderCreated/payload/$ref", "#/components/schemas/Nothing"),
        ("components/messages/OrderCreated/headers/type", "string"),
        ("components/messages/OrderCreated/examples", [{}]),
    ],
)
def test_it_sees_what_is_not_as_the_format_requires(path: str, value: Any) -> None:
    document = json.loads(documents()["order.asyncapi.json"])
    where, _, name = path.rpartition("/")
    (resolve(document, where) if where else document)[name] = value
    assert faults(document)


@pytest.mark.parametrize("service", HEARD)
def test_asyncapi_tells_what_a_service_says_and_hears(made: dict[str, Json], service: str) -> None:
    document = made[f"{service}.asyncapi.json"]
    told: dict[str, dict[str, set[str]]] = {"send": {}, "receive": {}}
    for operation in document["operations"].values():
        topic = resolve(document, operation["channel"]["$ref"])["address"]
        told[operation["action"]][topic] = {
            resolve(document, resolve(document, message["$ref"])["$ref"])["name"]
            for message in operation["messages"]
        }
    assert told["send"] == {TOPICS[service]: {fact.__name__ for fact in published_by(service)}}
    assert told["receive"].keys() == HEARD[service]


@pytest.mark.parametrize("service", SERVICES)
def test_the_examples_of_asyncapi_are_as_their_schemas_say_and_decode(
    made: dict[str, Json], service: str
) -> None:
    document = made[f"{service}.asyncapi.json"]
    for name, message in document["components"]["messages"].items():
        (example,) = message["examples"]
        for part, schema in (
            ("headers", message["headers"]),
            ("payload", resolve(document, message["payload"]["$ref"])),
        ):
            Draft7Validator(schema, format_checker=FormatChecker()).validate(example[part])
        headers = [(header, value.encode()) for header, value in example["headers"].items()]
        key, value = example["headers"]["ce_partitionkey"], json.dumps(example["payload"])
        assert decode(Record(key.encode(), value.encode(), headers)).type == name
