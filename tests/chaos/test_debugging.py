"""On a real system: a rebuild under load loses nothing, and looking, with whatever verb, changes nothing."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from choreo.benchmarks.observe import Journals
from choreo.chaos import evidence
from choreo.chaos.drain import drain
from choreo.chaos.history import History
from choreo.chaos.judge import judge
from choreo.chaos.load import Load, Rates
from choreo.cli.main import app
from choreo.message.codec import TopicRecord
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.replay.sources.recording import Recording, Writer
from choreo.replay.sources.records import Item
from tests.e2e.outside import Shop, until
from tests.services import SERVICES

ROOT = Path(__file__).parents[2]
REPLICAS = "order=2,billing=2"
RATES = Rates(registrations=0.5, deposits=2.0, orders=5.0, cancels=1.5)
PATIENCE = 120.0
"""Seconds until all mails are sent; a machine with much else to do needs them."""
EDITS = {
    "user": "UPDATE users SET created_at = 'epoch' WHERE id = (SELECT id FROM users LIMIT 1)",
    "order": "UPDATE orders SET description = 'edited' WHERE id IN (SELECT id FROM orders LIMIT 3)",
    "billing": "DELETE FROM ledger WHERE entry_id = (SELECT entry_id FROM ledger LIMIT 1)",
    "notification": "UPDATE notifications SET subject = '' WHERE id IN"
    " (SELECT id FROM notifications WHERE status = 'sent' LIMIT 2)",
}
"""By hand, and misleading no decision."""


@pytest.fixture(scope="module")
def system() -> Iterator[ThrowawaySystem]:
    with ThrowawaySystem(("choreo.cli.main", "up", "--json", "--replicas", REPLICAS)) as system:
        system.start()
        yield system


def choreo(system: ThrowawaySystem, *arguments: str) -> tuple[int, str]:
    """The exit code of a verb in this process, and what it printed."""
    result = CliRunner(env=system.environment).invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


# -- rebuild -----------------------------------------------------------------------------------------


def test_while_every_service_is_rebuilt_and_swapped_under_load_nothing_is_lost(
    system: ThrowawaySystem, tmp_path: Path
) -> None:
    facts = system.run_file
    urls = {service: facts["urls"][service] for service in facts["ports"]}
    load = Load(urls, seed=1, journal=tmp_path / "requests.ndjson", rates=RATES)
    served: list[int] = []
    with load.running():
        until(lambda: load.ended, lambda ended: ended >= 10)
        for service, by_hand in EDITS.items():
            edited = edit(facts["owner_urls"][service], by_hand)
            exit_code, report = rebuilt(system, service, "--swap")
            assert (exit_code, report["differences"], report["replaced"]) == (0, edited, edited)
            served.append(load.ended)
        until(lambda: load.ended, lambda ended: ended >= served[-1] + 10)
    assert served == sorted(set(served)), "customers were served while each was at work"
    assert drain(facts, time.monotonic() + PATIENCE) == []
    assert judge(evidence.collect(facts, load.requests)) == []
    refused = [request for request in load.requests if request.outcome == "failed"]
    assert {request.status for request in refused} <= {404, 409}, "an account came late, or a cancel did"
    for verb in (["verify"], ["doctor"], *(["rebuild", service] for service in SERVICES)):
        exit_code, printed = choreo(system, *verb)
        assert exit_code == 0, printed


def rebuilt(system: ThrowawaySystem, *arguments: str) -> tuple[int, dict[str, Any]]:
    """How it exits as a process, and what it tells."""
    command = [sys.executable, "-m", "choreo.cli.main", "rebuild", *arguments, "--json"]
    done = subprocess.run(command, env=system.environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def edit(url: str, statement: str) -> int:
    """How many rows it edited."""
    with psycopg.connect(url) as conn:
        count = conn.execute(statement.encode()).rowcount
    assert count
    return count


# -- looking -----------------------------------------------------------------------------------------

ACTING = {
    "simulate",
    "audit",
    "styles",
    "bench-peers",
    "up",
    "run",
    "scale",
    "migrate",
    "migration",
    "new",
    "provision",
    "demo",
    "bench",
    "chaos",
    "keys",
    "docs",
    "console",
}
"""Verbs that are to do something, and one that stays: whoever looks at its pages changes nothing, either."""
LOOKING = {
    "flows": 0,
    "log billing-events": 0,
    "trace {order}": 0,
    "trace {order} {file}": 0,
    "record -o {another_file}": 0,
    "verify": 0,
    "verify {file}": 0,
    "verify --closed-loop": 0,
    "verify {file} --closed-loop": 0,
    "verify --shuffle 3": 0,
    "minimize {wrong_file} -o {another_file}": 1,
    "state billing --at -0s --diff live": 0,
    "blame order orders {order}": 0,
    "replay live --service notification": 0,
    "rebuild user": 0,
    "rebuild order": 0,
    "rebuild billing": 3,
    "rebuild notification": 0,
    "dlq ls": 0,
    "dlq show": 0,
    "dlq retry --dry-run": 0,
    "dlq drop --dry-run --group {group}": 0,
    "logs order kafka -n 3": 0,
    "psql billing -- -cSELECT(1)": 0,
    "psql billing -- -cDELETE/**/FROM/**/accounts": 1,
    "env": 0,
    "doctor": 1,
    "otel --once": 0,
}
"""The others, and what they exit with where something is parked in billing."""


@pytest.fixture(scope="module")
def at_rest(system: ThrowawaySystem) -> tuple[History, str]:
    """Nothing is on its way, and a retry would have something to do. And the order that is parked."""
    facts = system.run_file
    ada, journals = Shop(facts["port_base"]).customer("10.00"), Journals(facts["owner_urls"])
    with journals.billing_refuses(UUID(ada.id)):
        order = ada.order("1.00", wait=0).json()["id"]
        ada.cancel(order)
        until(journals.parked, lambda count: count == 2)
    until(lambda: drain(facts, 0.0), lambda undone: undone == ["billing: 2 parked events"])
    return evidence.collect(facts, ()), order


@pytest.fixture(scope="module")
def named(
    system: ThrowawaySystem, at_rest: tuple[History, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What the verbs are asked about. In the wrong file a deposit is not what was decided."""
    directory = tmp_path_factory.mktemp("recordings")
    file, wrong_file = directory / "file.ndjson", directory / "wrong.ndjson"
    choreo(system, "record", "-o", str(file))
    recording = Recording(file)
    with Writer(wrong_file, recording.cut, None) as writer:
        for batch in recording.read():
            writer.write([_falsified(item) for item in batch])
        writer.finish()
    (group,) = json.loads(choreo(system, "dlq", "ls", "--json")[1])
    names = {"order": at_rest[1], "file": file, "wrong_file": wrong_file, "group": group["group"]}
    return {name: str(value) for name, value in names.items()}


def _falsified(item: Item) -> Item:
    if isinstance(item, TopicRecord) and ("ce_type", b"MoneyDeposited") in item.record.headers:
        value = (item.record.value or b"").replace(b'"amount":1000,', b'"amount":1001,')
        return replace(item, record=replace(item.record, value=value))
    return item


@pytest.mark.parametrize("verb", LOOKING)
def test_looking_mails_and_publishes_and_writes_nothing(
    system: ThrowawaySystem, at_rest: tuple[History, str], named: dict[str, str], verb: str, tmp_path: Path
) -> None:
    before, _ = at_rest
    arguments = verb.format(**named, another_file=tmp_path / "another.ndjson").split()
    exit_code, printed = choreo(system, *arguments)
    assert exit_code == LOOKING[verb], printed
    after = evidence.collect(system.run_file, ())
    assert after.ends == before.ends
    assert sorted(after.mails) == sorted(before.mails)
    assert without_leases(after) == without_leases(before)


def without_leases(history: History) -> dict[str, Any]:
    """All tables but those of leases: the services that run renew and drop theirs, whoever looks."""
    return {
        service: {name: rows for name, rows in tables.items() if name not in ("relay_leases", "leases")}
        for service, tables in history.tables.items()
    }


def test_no_verb_is_forgotten() -> None:
    assert {verb.split()[0] for verb in LOOKING} | ACTING == set(get_command(app).commands)  # type: ignore
