"""`choreo dlq` on real databases: what an operator sees and does."""

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from billing_service import service
from billing_service.state import Billing
from billing_service.store import STORE
from choreo.chassis.settings import Settings
from choreo.cli.running import dlq
from choreo.embedded.postgres import Postgres
from choreo.errors import HandlerMisbehaves, UsageError
from choreo.message.codec import encode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.operations.reading.installation import Installation
from events.order import OrderCreated
from events.user import UserRegistered
from tests.component.alone import an_event
from tests.component.test_kernel import (
    DECIDER,
    Replicas,
    balance,
    deposit,
    ordered,
    raises_for,
    registered,
)
from tests.databases import Database, a_database
from tests.services import SERVICES


@dataclass
class Shelf:
    """A database of each service, and what the verb printed last."""

    databases: dict[str, Database]

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(dlq.app, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code, result.output
        return result.output

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", exit_code=exit_code))

    def group(self) -> str:
        (group,) = self.json("ls")
        return str(group["group"])

    def billing(self, play: Callable[[Replicas], Awaitable[None]]) -> None:
        async def act() -> None:
            replicas = Replicas(self.databases["billing"], DECIDER, STORE)
            try:
                await play(replicas)
            finally:
                await replicas.close()

        asyncio.run(act())

    def park(self, *people: UUID) -> None:
        """A bug meets the registration of these; an order of each queues behind it."""

        async def play(replicas: Replicas) -> None:
            for person in people:
                kernel = await replicas.kernel(raises_for(person, UserRegistered))
                partition = people.index(person)
                users = await replicas.reader(kernel, "user-events", partition)
                orders = await replicas.reader(kernel, "order-events", partition)
                await users.put(an_event(registered(person)))
                await orders.put(an_event(ordered(person, 10)))

        self.billing(play)


@pytest.fixture
def shelf(postgres: Postgres, templates: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    with ExitStack() as stack:
        databases = {
            service: stack.enter_context(a_database(service, postgres, templates)) for service in SERVICES
        }
        urls = {service: database.runtime_url for service, database in databases.items()}
        installation = Installation(Settings(partitions=3), urls)
        monkeypatch.setattr(dlq, "find_installation", lambda: installation)
        stack.enter_context(capture_logs())  # which the command line keeps from printing
        yield Shelf(databases)


def test_where_nothing_is_parked_it_says_so(shelf: Shelf) -> None:
    assert shelf.run("ls") == "Nothing is parked.\n"
    assert shelf.json("ls") == shelf.json("show") == shelf.json("retry") == []


def test_what_failed_alike_is_one_group(shelf: Shelf) -> None:
    ada, eve = uuid4(), uuid4()
    shelf.park(ada, eve)
    (group,) = shelf.json("ls")
    assert group["keys"] == [str(ada), str(eve)]
    assert (group["event"], group["error"], group["behind"]) == (
        "UserRegistered",
        "ZeroDivisionError: a bug",
        2,
    )
    assert re.fullmatch(r"tests/component/test_kernel\.py:\d+", group["place"])
    shown = shelf.run("ls")
    assert group["group"] in shown and "billing" in shown


def test_different_failures_are_different_groups_oldest_first(shelf: Shelf) -> None:
    shelf.park(uuid4())

    async def play(replicas: Replicas) -> None:
        reader = await replicas.reader(await replicas.kernel(), "order-events", partition=9)
        await reader.put_undecodable(b"nobody")

    shelf.billing(play)
    assert [group["reason"] for group in shelf.json("ls")] == ["handler", "undecodable"]


def test_show_tells_where_the_event_lies_and_what_it_says(shelf: Shelf) -> None:
    ada = uuid4()
    shelf.park(ada)
    head, behind = shelf.json("show", "--group", shelf.group())
    assert (head["at"], behind["at"]) == ("user-events[0]@0", "order-events[0]@0")
    assert json.loads(head["value"])["user_id"] == str(ada)
    assert (head["tells"], behind["tells"]) == (f"login ada-{ada}", "price 10")
    assert ["ce_type", "UserRegistered"] in head["headers"]
    assert "user-events[0]@0" in shelf.run("show")


def test_show_names_the_command_that_replays_the_failure_of_the_first_of_the_key(shelf: Shelf) -> None:
    ada = uuid4()
    shelf.park(ada)
    head, behind = shelf.json("show")
    command = f"choreo replay live --service billing --key {ada} --break 'id == \"{head['id']}\"'"
    assert head["replay"] == behind["replay"] == command
    assert command in shelf.run("show")


def test_a_dry_run_says_what_a_retry_then_does(shelf: Shelf) -> None:
    ada = uuid4()
    shelf.park(ada)
    group = shelf.group()
    dry = shelf.json("retry", "--group", group, "--dry-run")
    told = shelf.run("retry", "--dry-run")
    assert shelf.group() == group
    assert balance(shelf.databases["billing"], ada) is None
    (key,) = dry
    assert [(one["event"], one["outcome"], one["decided"]) for one in key["handled"]] == [
        ("UserRegistered", "applied", ["AccountCreated"]),
        ("OrderCreated", "applied", ["PaymentRejected"]),
    ]
    registration, order = [one.pop("writes") for one in key["handled"]]
    assert shelf.json("retry", "--group", group) == dry
    assert shelf.run("ls") == "Nothing is parked.\n"
    assert balance(shelf.databases["billing"], ada) == 0

    (account,) = registration
    assert (account["table"], account["change"], account["primary_key"]) == ("accounts", "added", str(ada))
    waiting, rejected = order
    assert (waiting["change"], waiting["columns"]["outcome"]) == ("added", {"old": None, "new": "waiting"})
    assert (rejected["change"], rejected["columns"]["outcome"]) == (
        "changed",
        {"old": "waiting", "new": "rejected"},
    )
    assert rejected["cause"]["handler"].startswith("billing_service/evolve.py:")
    assert f"+ accounts {ada}" in told and "waiting → rejected" in told


def test_a_dry_run_meets_the_rows_as_they_are_and_leaves_every_table_as_it_was(shelf: Shelf) -> None:
    ada = uuid4()

    async def play(replicas: Replicas) -> None:
        kernel = await replicas.kernel(raises_for(ada, OrderCreated))
        users = await replicas.reader(kernel, "user-events")
        orders = await replicas.reader(kernel)
        await users.hear(registered(ada))
        (first,) = await orders.hear(ordered(ada, 30))
        await orders.put_unreadable(encode(first))
        await deposit(kernel, ada, 50)
        await orders.hear(ordered(ada, 30))

    shelf.billing(play)
    before = everything(shelf)
    (key,) = shelf.json("retry", "--dry-run")
    assert [(one["outcome"], one["decided"]) for one in key["handled"]] == [
        ("applied", ["PaymentConfirmed"]),
        ("duplicate", []),
        ("applied", ["PaymentRejected"]),
    ]
    assert everything(shelf) == before


def everything(shelf: Shelf) -> dict[str, list[tuple[Any, ...]]]:
    tables = ("accounts", "payments", "ledger", "keys", "journal", "outbox", "positions", "parked")
    return {
        table: sorted(shelf.databases["billing"].rows(f"SELECT * FROM {table}"), key=repr) for table in tables
    }


def test_a_dry_run_names_the_line_that_would_fail_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = uuid4()
    shelf.park(ada)
    monkeypatch.setattr(service, "evolve", raises_for(ada, OrderCreated).evolve)
    said = shelf.run("retry", "--dry-run", exit_code=1)
    assert re.search(r"fails \(tests/component/test_kernel.py:\d+\): ZeroDivisionError: a bug", said)
    assert "UserRegistered" in said and "1 would be applied; 1 stay parked" in said


def test_in_a_dry_run_a_handler_that_acts_is_refused(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def evolve(state: Billing, event: Event[Fact]) -> Billing:
        socket.create_connection(("127.0.0.1", 1))
        return state

    shelf.park(uuid4())
    monkeypatch.setattr(service, "evolve", evolve)
    with pytest.raises(HandlerMisbehaves, match=r"^tests/component/test_dlq.py:\d+ tries to open a socket"):
        shelf.run("retry", "--dry-run")


def test_a_retry_that_leaves_something_parked_exits_1_and_says_why(shelf: Shelf) -> None:
    async def play(replicas: Replicas) -> None:
        reader = await replicas.reader(await replicas.kernel())
        await reader.put_undecodable(b"nobody")
        await reader.put_undecodable(b"nobody")

    shelf.billing(play)
    said = shelf.run("retry", exit_code=1)
    assert "fails: the header ce_type is missing" in said
    assert said.endswith("nothing to handle; 2 stay parked\n")


def test_a_dropped_event_lets_those_behind_it_be_retried(shelf: Shelf) -> None:
    ada = uuid4()
    shelf.park(ada)
    group = shelf.group()
    would = shelf.run("drop", "--group", group, "--dry-run")
    assert "UserRegistered" in would and shelf.group() == group
    said = shelf.run("drop", "--group", group)
    assert said.endswith("What queued behind (1) is free: `choreo dlq retry` takes it.\n")
    (freed,) = shelf.json("ls")
    assert (freed["event"], freed["reason"]) == ("OrderCreated", "queued")
    (key,) = shelf.json("retry")
    assert [one["event"] for one in key["handled"]] == [OrderCreated.__name__]


def test_a_group_that_is_not_there_is_a_usage_error(shelf: Shelf) -> None:
    with pytest.raises(UsageError, match="There is no group 12345678"):
        shelf.run("retry", "--group", "12345678")
    with pytest.raises(UsageError, match="needs --group"):
        shelf.run("drop")
