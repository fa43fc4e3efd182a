"""All that leans on the insides of Faust, each with a test in `tests/unit/test_kafka_internals.py`.

Faust brings records and holds the place in the group. Five things it is told that it has no setting for:
where reading begins (Postgres' word and not the group's), how its consumer is made (what Faust hard-codes or
does not offer), that this needs no thread, that there are no tables to wait for, and that what is handed over
is not a record but all that one fetch brought, a `Fetched` of each partition. A message of Faust's costs
about the same whatever is in it, and so does a fetch: Kafka is asked for more once what it gave is finished.
Faust's own bookkeeping goes by messages of one partition and offsets one by one; here a partition is
acknowledged up to an offset.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Protocol

import aiokafka
import faust
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.tables import TableManager
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.supervisors import CrashingSupervisor
from mode.utils.futures import maybe_async

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.aiokafka_internals import Fetched
from choreo.chassis.transaction.positions import TopicPartition

FETCHED_RECORDS = 250
"""At most so many records come with one fetch."""
_BUFFERED_FETCHES = 2
_FETCHED_BYTES = 1 << 18
"""Of a partition in one answer; a single batch may be larger."""
_FETCH_WAIT_MS = 500
"""So long Kafka keeps a fetch that has nothing to give. Faust has 1500: a partition that is resumed meanwhile
would wait that long.
"""
_GATHER_SECONDS = 0.02
"""So long the next fetch waits at most until what the last one brought is finished."""
POLL_INTERVAL_SECONDS = math.inf
"""Without a fetch for so long aiokafka leaves the group, and comes back only with a fetch, which Faust makes
only once it has an assignment. So it never leaves for that: nothing is fetched while the database is away, or
where there are more processes than partitions. Who stops for another reason is begun anew by the consumer.
"""
_SESSION_SECONDS, _HEARTBEAT_SECONDS = 6, 1
_REBALANCE_SECONDS = 60
"""So long a group waits for its members to come back."""
_REQUEST_SECONDS = 90
"""More than a rebalance: to join is a request."""

FetchedChunks = Mapping[TopicPartition, Fetched]
"""What one fetch brought, by partition."""
NextOffsets = Callable[[set[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]]


class ChunkedApp(faust.App):  # type: ignore[misc]
    """One session of a group's member."""

    next_offsets: NextOffsets

    def __init__(self, group: str, client_id: str, access: KafkaAccess) -> None:
        self.group, self.client_id, self.access = group, client_id, access
        super().__init__(
            group,
            broker=";".join(f"kafka://{server.strip()}" for server in access.bootstrap.split(",")),
            broker_credentials=_credentials(access),
            autodiscover=False,
            env={},  # BROKER_URL and the like would win over what is said here
            broker_client_id=client_id,
            broker_commit_interval=1.0,
            broker_max_poll_records=FETCHED_RECORDS,
            agent_supervisor=CrashingSupervisor,
            TableManager=_NoTables,
            key_serializer="raw",
            value_serializer="raw",
            stream_buffer_maxsize=_BUFFERED_FETCHES,
            stream_wait_empty=False,
            table_standby_replicas=0,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
        )

    def consume(
        self,
        topics: Collection[str],
        listen: Callable[["Stream"], Awaitable[None]],
        next_offsets: NextOffsets,
    ) -> None:
        """`listen` is given what was fetched; `next_offsets` says where to begin with what is assigned."""
        self.next_offsets = next_offsets
        agent = self.conf.Agent(
            listen,
            app=self,
            channel=self.topic(*topics),
            supervisor_strategy=CrashingSupervisor,
            on_error=self._on_agent_error,
        )
        self.agents[agent.name] = agent

    def pause(self, place: TopicPartition) -> None:
        """Hands over no more of this partition until it is resumed."""
        self.consumer.pause(TP(*place))

    def resume(self, place: TopicPartition) -> None:
        self.consumer.resume(TP(*place))

    def acknowledge(self, place: TopicPartition, next_offset: int) -> None:
        """All before this offset of the partition is finished."""
        self.consumer.acknowledge(TP(*place), next_offset)

    def _create_directories(self) -> None:
        """None: there are no tables, so nothing would ever be in them."""

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)


def _credentials(access: KafkaAccess) -> Any:
    if sasl := access.faust():
        return faust.SASLCredentials(**sasl)
    context = access.ssl_context
    return faust.SSLCredentials(context) if context else None


class _NoTables(TableManager):  # type: ignore[misc]
    async def on_start(self) -> None:
        """Faust gives whoever has tables a second to name them, before it subscribes to a topic."""
        await self._update_channels()
        await self.recovery.start()


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """In no thread, but in the loop of whoever asks: what one fetch brings need not cross to another loop and
    back, and nobody waits for the interpreter's lock.
    """

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, thread_loop=asyncio.get_running_loop(), **kwargs)

    async def start(self) -> None:
        """As in a thread: serves until it is stopped, and says when it has begun."""
        self._thread_started.set()
        self._thread_running = asyncio.get_running_loop().create_future()
        self._serving = asyncio.ensure_future(self._serve())
        self._serving.add_done_callback(_retrieve)
        await self._thread_running

    async def on_thread_started(self) -> None:
        """Nothing waits in a queue for the other loop."""

    async def _gather_remaining_tasks(self) -> None:
        """There are others' among them."""

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await maybe_async(fun(*args, **kwargs))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.consumer.on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await self.consumer.on_partitions_assigned(assigned, generation_id)

    async def on_start(self) -> None:
        """By itself aiokafka would fetch from the group's offsets, and be busy with that once Faust seeks."""
        await super().on_start()
        with self._ensure_consumer()._fetcher.asking(()):
            pass

    def _create_worker_consumer(self, transport: Any) -> Any:
        """By its public arguments: Faust's own has others."""
        app = self.app
        return aiokafka.AIOKafkaConsumer(
            **app.access.aiokafka(),
            client_id=app.client_id,
            group_id=app.group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=_FETCHED_BYTES,
            max_poll_records=FETCHED_RECORDS,
            max_poll_interval_ms=POLL_INTERVAL_SECONDS * 1000,
            session_timeout_ms=_SESSION_SECONDS * 1000,
            heartbeat_interval_ms=_HEARTBEAT_SECONDS * 1000,
            rebalance_timeout_ms=_REBALANCE_SECONDS * 1000,
            request_timeout_ms=_REQUEST_SECONDS * 1000,
        )

    async def _fetch_records(
        self, consumer: Any, active_partitions: set[TP], timeout: float = 0.0, max_records: int | None = None
    ) -> Mapping[TP, list[Any]]:
        """By aiokafka's public way, which tells trouble with the group, too.

        Until Faust has sought, aiokafka goes by Kafka's offsets: there may be none, or nothing there.
        """
        if not self.consumer.flow_active:
            return {}
        wanted = [aiokafka.TopicPartition(*tp) for tp in active_partitions]
        if not wanted:
            return {}  # the last was paused just now; for aiokafka none would mean all
        try:
            with consumer._fetcher.asking(wanted):
                fetched = await consumer.getmany(*wanted, timeout_ms=timeout * 1000, max_records=max_records)
        except (NoOffsetForPartitionError, OffsetOutOfRangeError):
            if self.consumer.flow_active:
                raise
            return {}
        return _as_records({TP(*place): chunk for place, chunk in fetched.items()})


def _retrieve(task: "asyncio.Task[None]") -> None:
    """What was raised is known already: the app has crashed of it."""
    if not task.cancelled():
        task.exception()


def _as_records(fetched: FetchedChunks) -> Mapping[TP, list[Any]]:
    """One record with all of it, which goes by the name of one of the partitions."""
    if not fetched:
        return {}
    carrier, chunk = next(iter(fetched.items()))
    record = aiokafka.ConsumerRecord(
        *carrier,
        offset=chunk.end - 1,
        timestamp=0,
        timestamp_type=0,
        key=None,
        value=fetched,
        checksum=None,
        serialized_key_size=-1,
        serialized_value_size=-1,
        headers=(),
    )
    return {carrier: [record]}


class _Consumer(driver.Consumer):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: set[TP] = set()
        """Paused, which is nothing to Faust: it would drop a fetch that goes by the name of one."""
        self._resumed = asyncio.Event()
        self._under_way: set[tuple[TP, int]] = set()
        """Of the last fetch those partitions that are not finished, and where their chunks end."""
        self._finished = asyncio.Event()
        self._gathers = False

    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: set[TP], timeout: float) -> Mapping[TP, list[Any]]:
        """What arrives while the kernel has its hands full comes with the next fetch, all at once.

        Nothing is waited for after a record that came alone, while nothing was under way, and where there is
        more already than one fetch may bring.
        """
        if self._gathers and self._under_way:
            await _set_within(_GATHER_SECONDS, self._finished)
        wanted = active_partitions - self._held
        if not wanted:
            self._resumed.clear()
            await _set_within(timeout, self._resumed)
            return {}
        was_idle = not self._under_way
        records: Mapping[TP, list[Any]] = await super()._getmany(wanted, timeout)
        for (record,) in records.values():
            count = sum(map(len, record.value.values()))
            self._gathers = count < FETCHED_RECORDS and not (count <= 1 and was_idle)
            self._under_way = {(place, chunk.end) for place, chunk in record.value.items()}
            self._finished.clear()
        return records

    def pause(self, place: TP) -> None:
        self._held.add(place)

    def resume(self, place: TP) -> None:
        self._held.discard(place)
        self._resumed.set()

    def acknowledge(self, place: TP, next_offset: int) -> None:
        self._acked[place] = [next_offset]
        self._under_way.discard((place, next_offset))
        if not self._under_way:
            self._finished.set()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Faust asks where to begin, at every assignment. Not Kafka's word but Postgres' is given."""
        assignment = self.assignment()
        offsets = await self.app.next_offsets({(tp.topic, tp.partition) for tp in assignment})
        wanted = {tp: offsets[tp.topic, tp.partition] for tp in assignment}
        await self.seek_wait(wanted)
        return wanted

    def on_buffer_full(self, tp: TP) -> None:
        """Where the stream is full, the next message waits, and with it the next fetch."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Whether each partition is read is looked at from outside; Faust sees those that name a message."""

    def _new_offset(self, tp: TP) -> int | None:
        """Partitions are finished in the order of their offsets: the last word says how far."""
        last = self._acked.pop(tp, None)
        return last[0] if last else None

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """None is kept."""


async def _set_within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer


class Message(Protocol):
    value: FetchedChunks


class Event(Protocol):
    message: Message


class Stream(Protocol):
    """What is used of Faust's streams: events that it does not acknowledge."""

    def noack(self) -> "Stream": ...

    def events(self) -> AsyncIterator[Event]: ...
