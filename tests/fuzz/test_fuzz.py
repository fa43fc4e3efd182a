"""schemathesis holds every service to its OpenAPI document, with good data and bad.

`CHOREO_EXAMPLES` is about how many requests each service gets, beside those that walk the edges of the
document. They are the same in every run.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any
from uuid import UUID

import pytest
import requests
import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from choreo.cli.programmes.docs import documents
from choreo.demo.client import Customer
from tests.fuzz.running import ENDS_SESSIONS, Served

Test = Callable[..., None]

EXAMPLES = int(os.environ.get("CHOREO_EXAMPLES", "100"))
_SECONDS = 60
_STREAM = "/orders/{id}/events"
"""Has no end while its order may still change: see tests/component/test_event_stream.py."""

_asked: Counter[str] = Counter()
_documents = documents()


def every_operation_of(service: str) -> Callable[[Test], Test]:
    """With the examples shared out among the operations that take any input."""
    document = json.loads(_documents[f"{service}.openapi.json"])
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    taking = sum(bool(operation.keys() & {"parameters", "requestBody"}) for operation in operations)
    generation = {"max-examples": ceil(EXAMPLES / taking), "deterministic": True, "database": "none"}
    config = schemathesis.Config.from_dict({"generation": generation})
    schema = schemathesis.openapi.from_dict(document, config=config)
    parametrize: Callable[[Test], Test] = schema.exclude(path=_STREAM).parametrize()
    return parametrize


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session
    print("requests:", dict(_asked))


@pytest.fixture(scope="module")
def somebody(running: Served) -> tuple[Customer, dict[str, str]]:
    return running.busy_customer()


@every_operation_of("user")
def test_user(case: Any, running: Served, session: requests.Session, somebody: Any) -> None:
    ask("user", case, running, session, somebody)


@every_operation_of("order")
def test_order(case: Any, running: Served, session: requests.Session, somebody: Any) -> None:
    ask("order", case, running, session, somebody)


@every_operation_of("billing")
def test_billing(case: Any, running: Served, session: requests.Session, somebody: Any) -> None:
    ask("billing", case, running, session, somebody)


@every_operation_of("notification")
def test_notification(case: Any, running: Served, session: requests.Session, somebody: Any) -> None:
    ask("notification", case, running, session, somebody)


def ask(
    service: str,
    case: Any,
    running: Served,
    session: requests.Session,
    somebody: tuple[Customer, dict[str, str]],
) -> None:
    """As somebody who has a paid order; every other id is that of something of theirs.

    That good data is taken is not checked: no schema says which cursors and idempotency keys are good. Query
    parameters nobody knows are ignored, as is usual. Nobody waits for what will not come.
    """
    customer, ids = somebody
    if case.operation.path in ENDS_SESSIONS:
        customer = running.run(running.shop.customer())
    if is_uuid(case.path_parameters.get("id")) and UUID(case.path_parameters["id"]).int % 2:
        case.path_parameters["id"] = ids[service]
    if str(case.query.get("wait", "")) in map(str, range(31)):
        case.query["wait"] = 0
    known = {parameter.name for parameter in case.operation.query}
    ignored = [negative_data_rejection] if case.query.keys() - known else []
    _asked[service] += 1
    case.call_and_validate(
        base_url=running.urls[service],
        session=session,
        headers={"Authorization": f"Bearer {customer.token}"},
        timeout=_SECONDS,
        excluded_checks=[positive_data_acceptance, *ignored],
    )


def is_uuid(text: object) -> bool:
    try:
        UUID(str(text))
    except ValueError:
        return False
    return True
