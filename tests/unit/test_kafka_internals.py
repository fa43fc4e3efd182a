"""What is leaned on of Faust's and aiokafka's insides, each by its name: a release without it is named here.

That it is there is not all: that the whole of it works is for `tests/choreography/` to show.
"""

import inspect
from importlib import import_module
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchPy
from faust.tables import TableManager
from faust.transport.consumer import Consumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

from choreo.chassis.kafka.aiokafka_internals import AnyRecords, Fetched, _FetchResult
from choreo.chassis.kafka.faust_internals import _Consumer, _ConsumerThread

ROOM = "choreo.chassis.kafka"

OVERRIDDEN = [
    ("faust_internals.ChunkedApp", "_create_directories"),
    ("faust_internals.ChunkedApp", "_new_transport"),
    ("faust_internals._NoTables", "on_start"),
    ("faust_internals._ConsumerThread", "_create_worker_consumer"),
    ("faust_internals._ConsumerThread", "_fetch_records"),
    ("faust_internals._Consumer", "_new_consumer_thread"),
    ("faust_internals._Consumer", "seek_to_committed"),
    ("faust_internals._Consumer", "on_buffer_drop"),
    ("faust_internals._Consumer", "ack"),
    ("faust_internals._Consumer", "_new_offset"),
    ("faust_internals._Consumer", "_add_gap"),
    ("aiokafka_internals.AnyRecords", "next_batch"),
    ("aiokafka_internals._FetchResult", "getall"),
    ("aiokafka_internals._LenientBatch", "_maybe_uncompress"),
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
        (AIOKafkaConsumerThread, "_create_worker_consumer"),
        (AIOKafkaConsumerThread, "_fetch_records"),
        (TableManager, "self._update_channels()"),
        (TableManager, "self.recovery.start()"),
        (Consumer, "_new_offset"),
        (Consumer, "_add_gap"),
        (Consumer, "seek_to_committed"),
        (fetcher.Fetcher, "MemoryRecords("),
        (fetcher.Fetcher, "FetchResult("),
        (fetcher.Fetcher, ".getall("),
        (_DefaultRecordBatchPy, "_maybe_uncompress"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_it_is_called_where_it_is_expected_to_be(caller: type, called: str) -> None:
    assert called in inspect.getsource(caller), f"{caller.__name__} calls no {called} any more"


@pytest.mark.parametrize(
    "name", ["_acked", "_unacked_messages", "_paused_partitions", "_buffered_partitions", "flow_active"]
)
def test_a_consumer_of_faust_has_what_is_used_of_it(name: str) -> None:
    assert name in inspect.getsource(Consumer), f"Faust's Consumer.{name} is gone"


@pytest.mark.parametrize("name", ["_partition_records", "next_fetch_offset", "_records"])
def test_a_fetch_of_aiokafka_has_what_is_used_of_it(name: str) -> None:
    source = inspect.getsource(fetcher.PartitionRecords) + inspect.getsource(_FetchResult.__mro__[1])
    assert f"self.{name}" in source, f"aiokafka's {name} is gone"


def test_the_readers_are_the_ones_aiokafka_makes() -> None:
    assert (fetcher.MemoryRecords, fetcher.FetchResult) == (AnyRecords, _FetchResult)


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


async def test_what_is_committed_is_behind_the_last_chunk_that_was_acknowledged() -> None:
    """Faust's own way counts offsets one by one, and takes a chunk for a hole."""
    place = TP("topic", 0)
    consumer: Any = object.__new__(_Consumer)
    consumer._acked, consumer._unacked_messages = {}, set()
    for last in (4, 9):
        consumer.ack(type("Message", (), {"tp": place, "offset": last, "acked": False})())
    assert (consumer._new_offset(place), consumer._new_offset(place)) == (10, None)
