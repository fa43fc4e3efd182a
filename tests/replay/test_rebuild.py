"""What Kafka alone makes of a service is what the service has; where it is not, that is found and mended."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from billing_service import service as billing_service
from billing_service.evolve import evolve
from billing_service.state import Billing
from choreo import progress
from choreo.cli.debugging.rebuild import rebuilt
from choreo.cli.debugging.record import recorded
from choreo.demo.client import Customer
from choreo.embedded.postgres import Postgres
from choreo.message.codec import TopicRecord
from choreo.message.envelope import Event
from choreo.operations.acting.rebuilt import Busy
from choreo.operations.reading.flows import traced
from choreo.replay.sources.live import open_live
from choreo.replay.sources.recording import Recording
from choreo.replay.verify.report import report_on
from events.order import OrderCreated
from tests.brokers import Broker
from tests.choreography.ending import caught_up, sent_out, settled
from tests.choreography.test_money import assert_money_is_conserved
from tests.choreography.test_parking import a_desk
from tests.services import SERVICES
from tests.shop import Shop, a_shop, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

_ANOTHER_KIND = """UPDATE ledger SET kind = 'refund' WHERE side = 'customer' AND entry_id = (
    SELECT entry_id FROM ledger WHERE user_id = %s AND kind = 'deposit' ORDER BY step LIMIT 1)"""
_LEG_GONE = "DELETE FROM ledger WHERE user_id = %s AND kind = 'deposit' AND side = 'world'"
_BLOCKED = """SELECT 1 FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND usename = 'billing_owner' AND datname = current_database()"""
_NOBODYS_ACCOUNT = "INSERT INTO accounts VALUES (%s, gen_random_uuid(), 'EUR', 5, now())"


@asynccontextmanager
async def traffic(shop: Shop, customers: list[Customer]) -> AsyncIterator[None]:
    """Orders, deposits and cancels of all of them until the block ends; none is refused."""
    over = asyncio.Event()

    async def shopping(customer: Customer) -> None:
        while not over.is_set():
            orders = [(await customer.order(price)).raise_for_status().json() for price in ("1.00", "2.00")]
            deposit = await customer.deposit("2.00")
            assert deposit.status_code == 201, deposit.text
            assert (await customer.cancel(orders[0]["id"])).status_code in (202, 409)

    tasks = [asyncio.ensure_future(shopping(customer)) for customer in customers]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks)


def edit(shop: Shop, service: str, statement: str, *values: object) -> None:
    """By hand, as the owner of the tables."""
    with psycopg.connect(shop.owner_urls[service]) as conn:
        assert conn.execute(statement.encode(), values).rowcount


async def assert_all_is_well(shop: Shop) -> None:
    await settled(shop)
    assert_money_is_conserved(shop)
    for service in SERVICES:
        report = await rebuilt(shop.installation, service)
        assert (report.findings, report.exit_code) == ([], 0)
    here = shop.installation
    async with open_live(here.kafka, here.database_urls, here.settings) as source:
        assert (await report_on(source)).exit_code == 0


@pytest.mark.parametrize("service", SERVICES)
async def test_a_rebuilt_service_is_the_live_one_and_nothing_is_sent_or_published(
    running: Shop, service: str
) -> None:
    before = await sent_out(running)
    report = await rebuilt(running.installation, service)
    assert (report.findings, report.exit_code) == ([], 0)
    assert report.rows >= 4
    assert report.facts == sum(step for (step,) in running.rows(service, "SELECT sequence FROM keys"))
    assert await sent_out(running) == before


async def test_while_the_shop_goes_on_every_service_is_found_equal(running: Shop) -> None:
    customers = [await running.customer("100.00") for _ in range(4)]
    async with traffic(running, customers):
        facts = Counter[str]()
        for sign in (-1, 1):
            for service in SERVICES:
                report = await rebuilt(running.installation, service)
                assert (report.findings, report.exit_code) == ([], 0)
                facts[service] += sign * report.facts
    assert facts["billing"] > 0 and facts["notification"] > 0, "it did go on"
    await assert_all_is_well(running)


async def test_offsets_without_a_record_are_nobodys_loss(running: Shop, tmp_path: Path) -> None:
    """A fact comes again in a transaction, another in one that is aborted: at the end lies a marker."""
    here = running.installation
    async with open_live(here.kafka, here.database_urls, here.settings) as source:
        items = [item async for batch in source.batches() for item in batch]
    again = next(item for item in items if isinstance(item, TopicRecord) and "user-events" in item.topic)
    access = running.kafka.admin.aiokafka()
    async with AIOKafkaProducer(**access, transactional_id=again.topic) as producer:
        for end in (producer.commit_transaction, producer.abort_transaction) * 2:
            await producer.begin_transaction()
            await producer.send_and_wait(
                again.topic,
                again.record.value,
                again.record.key,
                again.partition,
                headers=again.record.headers,
            )
            await end()
    await assert_all_is_well(running)
    await recorded(running.installation, tmp_path / "recording")
    recording = Recording(tmp_path / "recording")
    assert (await report_on(recording)).exit_code == 0
    holes = [item for batch in recording.read() for item in batch if isinstance(item, TopicRecord)]
    assert [item.offset - item.begin for item in holes if item.begin < item.offset] == [3]


async def test_what_was_edited_by_hand_is_found_and_mended_while_the_shop_goes_on(running: Shop) -> None:
    ada, bob, *others = [await running.customer("100.00") for _ in range(4)]
    nobody = uuid4()
    await settled(running)
    edit(running, "billing", _ANOTHER_KIND, ada.id)
    edit(running, "billing", _LEG_GONE, bob.id)
    edit(running, "billing", _NOBODYS_ACCOUNT, nobody)
    async with traffic(running, [ada, bob, *others]):
        report = await rebuilt(running.installation, "billing")
        assert (report.exit_code, report.differences, report.kept) == (1, 3, "")
        found = {finding.key: finding for finding in report.findings}
        assert (found[str(ada.id)].table, found[str(ada.id)].column) == ("ledger", "kind")
        assert (found[str(ada.id)].expected, found[str(ada.id)].got) == (
            {"kind": "refund"},
            {"kind": "deposit"},
        )
        assert "ledger lacks" in found[str(bob.id)].says
        assert f"accounts has {nobody}, which no fact made" in found[str(nobody)].says

        report = await rebuilt(running.installation, "billing", swap=True)
        assert (report.exit_code, report.differences, report.replaced) == (0, 3, 3)
    kept = running.rows("billing", f"SELECT user_id, kind FROM {report.kept}.ledger")
    assert kept == [(ada.id, "refund")]
    assert running.rows("billing", f"SELECT user_id FROM {report.kept}.accounts") == [(nobody,)]
    await assert_all_is_well(running)


async def test_after_a_swap_the_service_may_do_exactly_what_it_could(running: Shop) -> None:
    """Above all: it may not change what was written into the ledger, nor see the copies."""
    privileges = (
        "SELECT table_name, privilege_type, grantee FROM information_schema.table_privileges"
        " WHERE table_schema = 'public' ORDER BY 1, 2, 3"
    )
    before = running.rows("billing", privileges)
    ((user,),) = running.rows("billing", "SELECT user_id FROM ledger WHERE kind = 'deposit' LIMIT 1")
    edit(running, "billing", _ANOTHER_KIND, user)
    report = await rebuilt(running.installation, "billing", swap=True)
    assert (report.exit_code, report.replaced) == (0, 1)
    assert running.rows("billing", privileges) == before
    with psycopg.connect(running.installation.database_urls["billing"], autocommit=True) as conn:
        for statement in (
            "UPDATE ledger SET amount = 2",
            "DELETE FROM ledger",
            "SELECT * FROM rebuilt.ledger",
            f"SELECT * FROM {report.kept}.ledger",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


async def test_killed_it_leaves_the_live_rows_as_they_are(running: Shop, tmp_path: Path) -> None:
    """Once while it builds, once while it swaps, each time when it waits for a lock."""
    await settled(running)
    ((user,),) = running.rows("billing", "SELECT user_id FROM ledger WHERE kind = 'deposit' LIMIT 1")
    edit(running, "billing", _ANOTHER_KIND, user)
    everything = "SELECT * FROM ledger ORDER BY entry_id, side"
    before = running.rows("billing", everything)
    schemas = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^(rebuilt|replaced)'"
    made = set(running.rows("billing", schemas))
    for lock in ("LOCK TABLE accounts", "SELECT FROM keys FOR UPDATE"):
        with psycopg.connect(running.owner_urls["billing"]) as conn:
            conn.execute(lock.encode())
            process = await called(running, tmp_path, "billing", "--swap")
            await eventually(lambda: asyncio.to_thread(running.rows, "billing", _BLOCKED), bool)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert running.rows("billing", everything) == before
        if lock.startswith("LOCK"):
            assert set(running.rows("billing", schemas)) == made, "nor does it leave anything"
    process = await called(running, tmp_path, "billing", "--swap", "--json")
    out, _ = await process.communicate()
    told = json.loads(out)
    assert (process.returncode, told["replaced"], told["findings"][0]["column"]) == (0, 1, "kind")
    await assert_all_is_well(running)


async def test_of_two_at_once_one_is_told_to_wait(running: Shop) -> None:
    with psycopg.connect(running.owner_urls["billing"]) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtext('choreo_rebuild'))")
        with pytest.raises(Busy):
            await rebuilt(running.installation, "billing")
        # Not left to the session's end, which takes its time.
        conn.execute("SELECT pg_advisory_unlock(hashtext('choreo_rebuild'))")
    assert (await rebuilt(running.installation, "billing")).exit_code == 0


async def test_long_work_says_how_far_it_is(
    running: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_QUIET", 0.0)
    ((user,),) = running.rows("billing", "SELECT user_id FROM ledger WHERE kind = 'deposit' LIMIT 1")
    edit(running, "billing", _ANOTHER_KIND, user)
    await rebuilt(running.installation, "billing", swap=True)
    await recorded(running.installation, tmp_path / "shop.ndjson")
    with progress.telling() as tell:
        await traced(running.installation, str(user), tell=tell)
    told = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    stages = [what for what, _ in groupby(told)]  # what takes long says so again
    assert stages == ["rebuilding", "comparing", "swapping", "recording", "looking up"]


async def called(shop: Shop, home: Path, *arguments: str) -> asyncio.subprocess.Process:
    """The command line, on the shop as the environment names it."""
    urls = {f"{service.upper()}_DATABASE_URL": url for service, url in shop.owner_urls.items()}
    return await _called(home, shop.installation.kafka.environment(), shop, urls, *arguments)


async def _called(
    home: Path, kafka: dict[str, str], shop: Shop, urls: Mapping[str, str], *arguments: str
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "choreo.cli.main",
        "rebuild",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ
        | urls
        | kafka
        | {"CHOREO_HOME": str(home), "CHOREO_TOPIC_PREFIX": shop.settings.topic_prefix},
    )


async def test_it_says_what_is_wrong_and_exits_accordingly(running: Shop, tmp_path: Path) -> None:
    unknown = await called(running, tmp_path, "payments")
    assert b"There is no service payments" in (await unknown.communicate())[1]
    assert unknown.returncode == 64
    nowhere = await _called(tmp_path, {}, running, dict.fromkeys(_VARIABLES, ""), "billing")
    assert b"No system runs from" in (await nowhere.communicate())[1]
    assert nowhere.returncode == 69
    fine = await called(running, tmp_path, "billing")
    assert b"equal: 0 rows differ" in (await fine.communicate())[0]
    assert fine.returncode == 0


_VARIABLES = [f"{service.upper()}_DATABASE_URL" for service in SERVICES]


async def test_what_kafka_alone_does_not_know_is_said(
    kafka: Broker,
    postgres: Postgres,
    templates: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fact is parked, then dropped; then the beginning of a topic is gone."""
    async with a_shop(kafka, postgres, templates, tmp_path / "mail") as shop:
        await shop.start(*SERVICES)
        ada, bob = await shop.customer("10.00"), await shop.customer("10.00")
        assert (await ada.order("1.00", wait=30)).json()["status"] == "confirmed"
        await shop.stop("billing")

        def buggy(state: Billing, event: Event[Any]) -> Billing:
            if event.key == str(ada.id) and isinstance(event.data, OrderCreated):
                raise ZeroDivisionError("a bug")
            return evolve(state, event)

        monkeypatch.setattr(billing_service, "evolve", buggy)
        await shop.start("billing")
        await ada.order("2.00")
        await caught_up(shop)
        monkeypatch.setattr(billing_service, "evolve", evolve)
        assert (await bob.order("1.00", wait=30)).json()["status"] == "confirmed"
        await shop.stop("billing")
        await shop.start("billing")
        for _ in ("parked", "dropped"):
            report = await rebuilt(shop.installation, "billing")
            assert (report.exit_code, report.differences) == (3, 0)
            (finding,) = report.findings
            assert (finding.kind, finding.key) == ("incomplete", str(ada.id))
            async with a_desk(shop) as desk:
                for group in await desk.groups(None):
                    await desk.drop(group.id, dry_run=False)
        edit(shop, "billing", _ANOTHER_KIND, ada.id)
        report = await rebuilt(shop.installation, "billing", swap=True)
        assert (report.exit_code, report.replaced) == (3, 1), "mended, and what is left out is still said"
        edit(shop, "billing", "DELETE FROM keys WHERE key = %s", str(bob.id))
        report = await rebuilt(shop.installation, "billing")
        assert f"key {bob.id} cannot be rebuilt" in " ".join(finding.says for finding in report.findings)

        await asyncio.to_thread(_forget_the_beginning, shop)
        report = await rebuilt(shop.installation, "order")
        assert report.exit_code == 3
        assert "begins at offset 1: what lay before is gone" in report.findings[0].says


def _forget_the_beginning(shop: Shop) -> None:
    """Of the order service's topic."""
    admin = AdminClient(shop.kafka.admin.confluent())
    topic = f"{shop.settings.topic_prefix}order-events"
    ((partition,),) = shop.rows(
        "billing", "SELECT partition FROM positions WHERE topic = %s AND next_offset > 1 LIMIT 1", topic
    )
    for future in admin.delete_records([TopicPartition(topic, partition, 1)]).values():
        future.result()
