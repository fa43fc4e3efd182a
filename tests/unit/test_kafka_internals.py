"""What is leaned on of Faust's and aiokafka's insides, each by its name: a release without it is named here.

That it is there is not all: that the whole of it works is for `tests/choreography/` to show.
"""

import asyncio
import hashlib
import inspect
from collections import deque
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, conn
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer import consumer, fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchPy
from faust.tables import TableManager
from faust.transport.conductor import ConductorCompiler
from faust.transport.consumer import Consumer, ConsumerThread
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP
from mode.threads import QueueServiceThread, ServiceThread

from choreo.chassis.kafka import faust_internals
from choreo.chassis.kafka.aiokafka_internals import AnyRecords, Fetched, _Fetcher, _FetchResult
from choreo.chassis.kafka.faust_internals import FETCHED_RECORDS, _as_records, _Consumer, _ConsumerThread

ROOM = "choreo.chassis.kafka"
A, B = TP("topic", 0), TP("topic", 1)
PATIENCE = 30.0
"""Longer than whatever is waited for."""

OVERRIDDEN = [
    ("faust_internals.ChunkedApp", "_create_directories"),
    ("faust_internals.ChunkedApp", "_new_transport"),
    ("faust_internals._NoTables", "on_start"),
    ("faust_internals._ConsumerThread", "start"),
    ("faust_internals._ConsumerThread", "on_thread_started"),
    ("faust_internals._ConsumerThread", "_gather_remaining_tasks"),
    ("faust_internals._ConsumerThread", "call_thread"),
    ("faust_internals._ConsumerThread", "on_partitions_revoked"),
    ("faust_internals._ConsumerThread", "on_partitions_assigned"),
    ("faust_internals._ConsumerThread", "on_start"),
    ("faust_internals._ConsumerThread", "_create_worker_consumer"),
    ("faust_internals._ConsumerThread", "_fetch_records"),
    ("faust_internals._Consumer", "_new_consumer_thread"),
    ("faust_internals._Consumer", "seek_to_committed"),
    ("faust_internals._Consumer", "_getmany"),
    ("faust_internals._Consumer", "on_buffer_full"),
    ("faust_internals._Consumer", "verify_event_path"),
    ("faust_internals._Consumer", "_new_offset"),
    ("faust_internals._Consumer", "_add_gap"),
    ("aiokafka_internals.AnyRecords", "next_batch"),
    ("aiokafka_internals._Fetcher", "_get_actions_per_node"),
    ("aiokafka_internals._FetchResult", "getall"),
    ("aiokafka_internals._LenientBatch", "_maybe_uncompress"),
    ("aiokafka_internals._Scram", "create_salted_password"),
]
"""Methods of ours that theirs is expected to call, and that take what theirs takes."""


@pytest.mark.parametrize(("ours", "name"), OVERRIDDEN, ids=lambda part: str(part))
def test_what_is_overridden_is_there_and_takes_the_same(ours: str, name: str) -> None:
    module, _, cls = ours.partition(".")
    mine = getattr(import_module(f"{ROOM}.{module}"), cls)
    theirs = next((base.__dict__[name] for base in mine.__mro__[1:] if name in base.__dict__), None)
    assert theirs is not None, f"{mine.__mro__[1].__name__}.{name} is gone"
    wanted, taken = parameters(theirs), parameters(mine.__dict__[name])
    assert taken == wanted[: len(taken)], f"{mine.__mro__[1].__name__}.{name} takes {wanted}"


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if not name.startswith("_")]


@pytest.mark.parametrize(
    ("caller", "called"),
    [
        (faust.App, "_new_transport"),
        (ServiceThread, "self._thread_running"),
        (ServiceThread, "await self.on_thread_started()"),
        (ServiceThread, "await self._gather_remaining_tasks()"),
        (QueueServiceThread, "await self.method_queue.start()"),
        (ConsumerThread, "threadsafe_partitions_revoked"),
        (ConsumerThread, "threadsafe_partitions_assigned"),
        (AIOKafkaConsumerThread, "self.call_thread("),
        (AIOKafkaConsumerThread, "_create_worker_consumer"),
        (AIOKafkaConsumerThread, "_fetch_records"),
        (TableManager, "self._update_channels()"),
        (TableManager, "self.recovery.start()"),
        (Consumer, "_new_offset"),
        (Consumer, "_add_gap"),
        (Consumer, "seek_to_committed"),
        (Consumer, "self._getmany("),
        (Consumer, "self.verify_event_path("),
        (ConductorCompiler, "consumer.on_buffer_full"),
        (AIOKafkaConsumer, "Fetcher("),
        (fetcher.Fetcher, "self._get_actions_per_node("),
        (fetcher.Fetcher, "MemoryRecords("),
        (fetcher.Fetcher, "FetchResult("),
        (fetcher.Fetcher, ".getall("),
        (_DefaultRecordBatchPy, "_maybe_uncompress"),
        (AIOKafkaConnection, "ScramAuthenticator("),
        (conn.ScramAuthenticator.__mro__[1], "self.create_salted_password("),
        (faust.App, "self.agents[agent.name] = agent"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_it_is_called_where_it_is_expected_to_be(caller: type, called: str) -> None:
    assert called in inspect.getsource(caller), f"{caller.__name__} calls no {called} any more"


@pytest.mark.parametrize("name", ["_acked", "flow_active"])
def test_a_consumer_of_faust_has_what_is_used_of_it(name: str) -> None:
    assert name in inspect.getsource(Consumer), f"Faust's Consumer.{name} is gone"


@pytest.mark.parametrize("name", ["_fetcher_timeout", "_wait_consume_future", "_notify"])
def test_a_fetcher_of_aiokafka_has_what_is_used_of_it(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(fetcher.Fetcher), f"aiokafka's Fetcher.{name} is gone"


@pytest.mark.parametrize("name", ["_partition_records", "next_fetch_offset", "_records"])
def test_a_fetch_of_aiokafka_has_what_is_used_of_it(name: str) -> None:
    source = inspect.getsource(fetcher.PartitionRecords) + inspect.getsource(_FetchResult.__mro__[1])
    assert f"self.{name}" in source, f"aiokafka's {name} is gone"


def test_the_readers_are_the_ones_aiokafka_makes() -> None:
    assert consumer.Fetcher is _Fetcher
    assert (fetcher.MemoryRecords, fetcher.FetchResult) == (AnyRecords, _FetchResult)


def test_a_password_is_salted_once_for_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds what the first has made, and it is what aiokafka would have made."""

    def salted(kind: Any, password: str, salt: bytes) -> bytes:
        client = kind(
            loop=None, sasl_plain_username="a", sasl_plain_password=password, sasl_mechanism="SCRAM-SHA-512"
        )
        client.create_salted_password(salt, 4096)
        return bytes(client._salted_password)

    theirs = conn.ScramAuthenticator.__mro__[1]
    some = [("one", b"salt"), ("two", b"salt"), ("one", b"pepper")]
    expected = [salted(theirs, *how) for how in some]
    assert [salted(conn.ScramAuthenticator, *how) for how in some] == expected
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", None)
    assert [salted(conn.ScramAuthenticator, *how) for how in some] == expected


def test_kafka_is_asked_while_somebody_waits_and_nothing_of_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetcher.Fetcher, "_get_actions_per_node", lambda *_: "asked")
    asks: Any = object.__new__(_Fetcher)
    asks._records, asks._fetcher_timeout, asks._wait_consume_future = {}, 0.2, None

    def asked() -> bool:
        return bool(asks._get_actions_per_node(None) == "asked")

    assert asked(), "as aiokafka does for whoever says nothing"
    with asks.asking([A]):
        assert asked()
        asks._records = {B: "of somebody who waits for nothing"}
        assert asked()
        asks._records = {A: "not taken yet"}
        assert not asked()
        asks._records = {}
    assert not asked()
    assert asks._get_actions_per_node(None) == ([], {}, 0.2, False, [])


def test_before_faust_asks_for_records_kafka_is_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asks: Any = object.__new__(_Fetcher)
    asks._fetcher_timeout, asks._wait_consume_future = 0.2, None

    async def as_aiokafka_begins(thread: Any) -> None:
        thread._consumer = SimpleNamespace(_fetcher=asks)

    monkeypatch.setattr(AIOKafkaConsumerThread, "on_start", as_aiokafka_begins)
    asyncio.run(_ConsumerThread.on_start(object.__new__(_ConsumerThread)))
    assert asks._get_actions_per_node(None) == ([], {}, 0.2, False, [])


def test_a_consumer_is_made_with_public_arguments_alone() -> None:
    asked = inspect.getsource(_ConsumerThread._create_worker_consumer)
    known = inspect.signature(AIOKafkaConsumer.__init__).parameters
    named = [line.split("=")[0].strip() for line in asked.splitlines() if line.endswith(",") and "=" in line]
    assert len(named) > 10
    assert [name for name in named if name not in known] == []


def test_a_chunk_passes_for_a_record() -> None:
    """Faust asks nothing of a record but these."""
    wanted = {
        line.split("record.")[1].strip(" ,/0123456789.")
        for line in inspect.getsource(driver_to_message()).splitlines()
        if "record." in line
    }
    assert wanted <= set(ConsumerRecord.__dataclass_fields__)


def driver_to_message() -> Any:
    return next(base.__dict__["_to_message"] for base in _Consumer.__mro__ if "_to_message" in base.__dict__)


def test_a_batch_begins_with_its_offset_and_its_leaders_epoch() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 16)
    builder.append(0, None, b"key", b"value", [("name", b"value")])
    data = bytearray(builder.build())
    data[0:8] = (70).to_bytes(8)  # as a broker stores it
    data[12:16] = (7).to_bytes(4)
    found = AnyRecords(bytes(data)).record_at(70)
    assert found is not None
    assert (found.record.key, found.record.headers, found.leader_epoch) == (b"key", [("name", b"value")], 7)
    assert AnyRecords(bytes(data)).record_at(71) is None


def test_a_fetch_without_a_record_is_something_if_it_got_on() -> None:
    assert Fetched([], 3, 4, [(3, 0)])
    assert not Fetched([], 3, 3, [])
    epochs = [(0, 1), (5, 2), (6, 4)]
    fetched = Fetched([], 0, 9, epochs)
    assert [fetched.leader_epoch(offset) for offset in (0, 4, 5, 6, 8)] == [1, 1, 2, 4, 4]


class Played:
    """A consumer of Faust's, whose thread is played."""

    def __init__(self) -> None:
        self.consumer: Any = object.__new__(_Consumer)
        self.consumer._acked, self.consumer._held, self.consumer._under_way = {}, set(), set()
        self.consumer._resumed, self.consumer._finished = asyncio.Event(), asyncio.Event()
        self.consumer._gathers = False
        self.consumer._thread = self
        self.asked: list[set[TP]] = []
        self.answers: deque[dict[TP, Fetched]] = deque()

    async def getmany(self, active_partitions: set[TP], timeout: float) -> Any:
        self.asked.append(set(active_partitions))
        return _as_records(self.answers.popleft())

    async def fetch(self, **answer: int) -> None:
        """Each partition's chunk ends there, and has one record for two offsets."""
        places = {TP("topic", int(name[1:])): end for name, end in answer.items()}
        self.answers.append({place: Fetched(range(end // 2), 0, end, []) for place, end in places.items()})
        async with asyncio.timeout(PATIENCE):
            await self.consumer._getmany({A, B}, timeout=PATIENCE)


async def test_a_fetch_is_one_message_with_the_chunks_of_its_partitions() -> None:
    chunks = {A: Fetched([1, 2], 3, 5, []), B: Fetched([1], 7, 8, [])}
    ((carrier, (record,)),) = _as_records(chunks).items()
    assert (carrier, record.value, record.offset) == (A, chunks, 4)
    assert _as_records({}) == {}


async def test_what_is_committed_is_behind_the_last_that_was_acknowledged() -> None:
    """Faust's own way counts offsets one by one."""
    consumer = Played().consumer
    for end in (5, 10):
        consumer.acknowledge(A, end)
    assert (consumer._new_offset(A), consumer._new_offset(A)) == (10, None)


async def test_more_is_fetched_once_all_of_the_last_fetch_is_finished(gathers_for_ever: None) -> None:
    played = Played()
    await played.fetch(p0=3, p1=2)
    second = asyncio.ensure_future(played.fetch(p0=4))
    for place, end in ((A, 3), (B, 1)):  # and of an earlier chunk of the other one
        played.consumer.acknowledge(place, end)
        await asyncio.sleep(0)
        assert len(played.asked) == 1
    played.consumer.acknowledge(B, 2)
    await second
    assert played.asked == [{A, B}] * 2


async def test_after_a_record_that_came_alone_nothing_is_waited_for_but_after_the_next_one(
    gathers_for_ever: None,
) -> None:
    played = Played()
    for _ in range(2):
        for end in (2, 3):  # one record
            await played.fetch(**{f"p{end - 2}": end})
        asked = len(played.asked)
        third = asyncio.ensure_future(played.fetch())
        await asyncio.sleep(0)
        assert len(played.asked) == asked
        played.consumer.acknowledge(B, 3)
        await third


async def test_where_there_is_more_than_a_fetch_may_bring_nothing_is_waited_for(
    gathers_for_ever: None,
) -> None:
    played = Played()
    await played.fetch(p0=FETCHED_RECORDS, p1=FETCHED_RECORDS)
    await played.fetch(p0=3)
    assert len(played.asked) == 2


async def test_what_does_not_get_on_holds_up_the_next_fetch_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faust_internals, "_GATHER_SECONDS", 0)
    played = Played()
    await played.fetch(p0=4)
    await played.fetch(p0=6)
    assert len(played.asked) == 2


async def test_a_partition_that_is_paused_is_not_asked_for_until_it_is_resumed() -> None:
    played = Played()
    played.consumer.pause(A)
    await played.fetch()
    played.consumer.pause(B)
    waiting = asyncio.ensure_future(played.fetch())
    await asyncio.sleep(0)
    played.consumer.resume(B)
    await waiting
    await played.fetch()
    assert played.asked == [{B}, {B}]


@pytest.fixture
def gathers_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faust_internals, "_GATHER_SECONDS", PATIENCE)
