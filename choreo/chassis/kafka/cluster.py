"""What a Kafka cluster says of itself: its topics, where they begin and end, and what this client may do.
And what is written to it, batch by batch.

Asked over aiokafka's connections. Its own requests know neither a topic's id nor the leave to use it: these
are in `choreo/chassis/kafka/protocol.py`. librdkafka's admin client (2.16) knows both, and aborts the
whole process where the cluster names no broker or the leader of a partition changes under its question.
"""

import asyncio
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from struct import pack
from typing import Any, Self
from uuid import uuid4

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import (
    BrokerNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailed,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.aiokafka_internals import AnyRecords, FetchedRecord
from choreo.chassis.kafka.protocol import DescribeGroupsRequest, MetadataRequest
from choreo.chassis.transaction.positions import TopicPartition

EARLIEST, LATEST = -2, -1
"""Of a partition, instead of a time."""

_TIMEOUT_MS = 5000
_NEXT_HOST_AFTER_SECONDS = 0.3
"""One that is silent may be frozen: then the next is tried as well."""
_REPLICATED_WITHIN_MS = 4000
"""A leader that waits for its followers says so before we lose patience with it."""
_ALL_REPLICAS = -1
_NO_TRANSACTION = None
_OF_GROUPS = 0
_ANY_REPLICA = -1
_TOPIC = 2
_OF_A_PARTITION, _OF_ALL = 1 << 16, 1 << 23
"""Bytes of a fetch. Kafka gives more where a single batch is larger, of one partition at a time."""
_UNTOLD = -(2**31)
_OPERATIONS = {
    3: "READ",
    4: "WRITE",
    5: "CREATE",
    6: "DELETE",
    7: "ALTER",
    8: "DESCRIBE",
    10: "DESCRIBE_CONFIGS",
    11: "ALTER_CONFIGS",
}
"""By Kafka's numbers: those there are for a topic or a group."""

Address = tuple[str, int]
Operations = Collection[str] | None
"""What this client may do, by Kafka's names; None where the cluster does not tell."""


@dataclass(frozen=True, slots=True)
class Topic:
    id: str
    """In base64 with + and /, as it stands in `positions`. Kafka's own tools show - and _ instead."""
    leaders: Mapping[int, int]
    """By partition the number of a broker, which is not among the brokers where there is no leader."""
    leader_epochs: Mapping[int, int]
    """By partition how often its leader has changed. Only with a new one can a log lose its end."""
    operations: Operations


@dataclass(frozen=True, slots=True)
class Metadata:
    cluster_id: str
    brokers: Mapping[int, Address]
    _topics: Mapping[str, Topic | KafkaError]

    def leader(self, topic: str, partition: int) -> Address:
        """Raises `LeaderNotAvailableError`."""
        number = self.topic(topic).leaders.get(partition, -1)
        if number not in self.brokers:
            raise LeaderNotAvailableError(f"{topic}[{partition}]")
        return self.brokers[number]

    def topic(self, name: str) -> Topic:
        """Raises what Kafka answers instead, as `UnknownTopicOrPartitionError`."""
        told = self._topics[name]
        if isinstance(told, KafkaError):
            raise told
        return told


@dataclass(frozen=True, slots=True)
class Member:
    id: str
    """By which Kafka knows it."""
    client_id: str
    host: str
    partitions: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class Group:
    state: str
    """As Kafka calls it: Stable, Empty, Dead, PreparingRebalance, CompletingRebalance."""
    members: Sequence[Member]
    operations: Operations

    def strangers(self, service: str) -> list[str]:
        """Each as a sentence. What such a one is given this service does not hear."""
        return [
            f"{member.client_id} at {member.host.lstrip('/')} is in the consumer group of {service}, is none "
            f"of its processes and holds {len(member.partitions)} of its partitions: stop it, or give it a "
            "group of its own"
            for member in self.members
            if not member.client_id.startswith(_clients_of(service))
        ]

    def predecessors(self, service: str, instance: str) -> list[Member]:
        """Earlier sessions of this instance."""
        return [one for one in self.members if one.client_id.startswith(_clients_of(service, instance))]


def new_client_id(service: str, instance: str | None) -> str:
    """By which a process of this service is known in its group, for one session."""
    return f"{_clients_of(service, instance)}{uuid4().hex[:12]}"


def _clients_of(service: str, instance: str | None = None) -> str:
    return f"choreo.{service}." + (f"{instance}." if instance else "")


class Cluster:
    """Connections are made where they are needed; use as a context, which ends them.

    Raises nothing but aiokafka's KafkaError: of a cluster that is away, too, and after five seconds without
    an answer.
    """

    def __init__(self, access: KafkaAccess) -> None:
        self._how = access.aiokafka()
        self._bootstrap = self._how.pop("bootstrap_servers")
        self._first: Address | None = None
        self._connections: dict[Address, Any] = {}
        self._connecting: dict[Address, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every connection at once, whatever was still to be sent or answered on it."""
        for connection in self._connections.values():
            if connection.connected():
                # A transport that is only closed waits until a peer that may be frozen has read everything.
                connection._writer.transport.abort()
            connection.close()
        self._connections.clear()
        self._first = None

    async def metadata(self, topics: Iterable[str]) -> Metadata:
        """Raises `BrokerNotAvailableError` where the cluster names no broker.

        As a broker does that is alone, while its controller takes it for dead.
        """
        no_id = 0, 0
        asked: list[tuple[Any, ...]] = [(*no_id, name, {}) for name in topics]
        told = await self._ask(MetadataRequest(asked, False, True, {}))
        if not told.brokers:
            raise BrokerNotAvailableError(f"the cluster at {self._bootstrap} names no broker")
        return Metadata(
            told.cluster_id,
            {number: (host, port) for number, host, port, *_ in told.brokers},
            {name: _topic(error, name, *rest) for error, name, *rest in told.topics},
        )

    async def group(self, name: str) -> Group:
        told = await self._ask(DescribeGroupsRequest([name], True), await self._coordinator(name))
        ((error, _, state, _, _, members, operations),) = told.groups
        _check(error, name)
        described = [Member(id, client, host, _assigned(held)) for id, client, host, _, held in members]
        return Group(state, described, _operations(operations))

    async def dismiss(self, group: str, member: Member) -> None:
        """As if it had left. One that is alive still, and does not know, joins again."""
        told = await self._ask(LeaveGroupRequest(group, member.id), await self._coordinator(group))
        if told.error_code != UnknownMemberIdError.errno:
            _check(told.error_code, group)

    async def _coordinator(self, group: str) -> Address:
        found = await self._ask(FindCoordinatorRequest(group, _OF_GROUPS))
        _check(found.error_code, group)
        return found.host, found.port

    async def cleanup_policies(self, topics: Iterable[str]) -> dict[str, str]:
        asked = [(_TOPIC, topic, ["cleanup.policy"]) for topic in topics]
        policies = {}
        for error, _, _, topic, configs in (await self._ask(DescribeConfigsRequest(asked))).resources:
            _check(error, topic)
            ((_, policies[topic], *_),) = configs
        return policies

    async def offsets(
        self, places: Collection[TopicPartition], when: int, *, committed: bool = False
    ) -> dict[TopicPartition, tuple[int, int]]:
        """Of the first record that is as young as `when`, or younger: its offset, and its time.

        Both in milliseconds since the epoch; -1 and -1 where there is none. `EARLIEST` and `LATEST` have no
        time. `committed`: `LATEST` is where the first transaction begins that is still open.
        """
        found = {}
        async for leader, topics in self._by_leader(dict.fromkeys(places, (when,))):
            request = OffsetRequest(_ANY_REPLICA, int(committed), topics)
            for topic, partitions in (await self._ask(request, leader)).topics:
                for partition, error, time, offset in partitions:
                    _check(error, f"{topic}[{partition}]")
                    found[topic, partition] = offset, time
        return found

    async def new_producer_id(self) -> tuple[int, int]:
        """The id and epoch of an idempotent producer, by which Kafka knows what it was sent before."""
        told = await self._ask(InitProducerIdRequest(_NO_TRANSACTION, 0))
        _check(told.error_code, "a producer's id")
        return told.producer_id, told.producer_epoch

    async def produce(
        self,
        leader: Address,
        topic: str,
        batches: Mapping[int, bytes],
        within_ms: int = _REPLICATED_WITHIN_MS,
    ) -> dict[int, KafkaError]:
        """By partition what the leader answers instead, once each has as many replicas as it must, or will
        not get them in time.
        """
        topics = [(topic, list(batches.items()))]
        told = await self._ask(ProduceRequest(_NO_TRANSACTION, _ALL_REPLICAS, within_ms, topics), leader)
        ((_, answers),) = told.topics
        return {
            partition: _error(error, f"{topic}[{partition}]") for partition, error, *_ in answers if error
        }

    async def records(self, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, FetchedRecord]:
        """What is at these offsets, be it a marker or aborted, as far as there is anything. Raises KafkaError
        where a leader does not show it yet: so it is at the end, and after an election even before.
        """
        found: dict[TopicPartition, FetchedRecord] = {}
        left = dict(wanted)
        while left:
            answered: set[TopicPartition] = set()
            asked = {place: (offset, _OF_A_PARTITION) for place, offset in left.items()}
            async for leader, topics in self._by_leader(asked):
                request = FetchRequest(0, 0, _OF_ALL, 0, topics)
                for topic, partitions in (await self._ask(request, leader)).topics:
                    for partition, error, *_, data in partitions:
                        place = topic, partition
                        if error != OffsetOutOfRangeError.errno:
                            _check(error, f"{topic}[{partition}]")
                        batches = AnyRecords(data or b"")
                        if batches.has_next() or error:
                            answered.add(place)
                        if record := batches.record_at(left[place]):
                            found[place] = record
            if not answered:
                raise KafkaTimeoutError(f"no record of {sorted(left)} is given")
            left = {place: offset for place, offset in left.items() if place not in answered}
        return found

    async def _by_leader(
        self, wanted: Mapping[TopicPartition, tuple[int, ...]]
    ) -> AsyncIterator[tuple[Address, list[tuple[str, list[tuple[int, ...]]]]]]:
        """What each leader is to be asked, topic by topic and partition by partition."""
        metadata = await self.metadata({topic for topic, _ in wanted})
        asked: dict[int, dict[str, list[tuple[int, ...]]]] = {}
        for (topic, partition), what in wanted.items():
            leader = metadata.topic(topic).leaders.get(partition, -1)
            if leader not in metadata.brokers:
                raise LeaderNotAvailableError(f"{topic}[{partition}]")
            asked.setdefault(leader, {}).setdefault(topic, []).append((partition, *what))
        for leader, topics in asked.items():
            yield metadata.brokers[leader], list(topics.items())

    async def _ask(self, request: Any, at: Address | None = None) -> Any:
        """This broker, or any."""
        try:
            connection = await (self._connected(at) if at else self._any())
            return await connection.send(request)
        except OSError as error:
            where = "{}:{}".format(*at) if at else self._bootstrap
            says = "no answer" if isinstance(error, TimeoutError) else str(error) or repr(error)
            raise KafkaConnectionError(f"Kafka at {where}: {says}") from error

    async def _any(self) -> Any:
        """The first that answers, and from then on the same."""
        if self._first:
            return await self._connected(self._first)
        hosts: list[Address] = [(host, port) for host, port, _ in collect_hosts(self._bootstrap)]
        asked: dict[asyncio.Future[Any], Address] = {}
        trouble: Exception = BrokerNotAvailableError("no host is named")
        try:
            while hosts or asked:
                if hosts:
                    host = hosts.pop()
                    asked[asyncio.ensure_future(self._connected(host))] = host
                seconds = _NEXT_HOST_AFTER_SECONDS if hosts else None
                answered, _ = await asyncio.wait(asked, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for done in answered:
                    host = asked.pop(done)
                    try:
                        connection = done.result()
                    except SaslAuthenticationFailed:
                        raise
                    except (KafkaError, OSError) as error:
                        trouble = error
                    else:
                        self._first = host
                        return connection
            raise trouble
        finally:
            for left in asked:
                left.cancel()

    async def _connected(self, at: Address) -> Any:
        async with self._connecting[at]:  # or whoever asks at the same time makes another
            if at not in self._connections or not self._connections[at].connected():
                self._connections[at] = await create_conn(*at, request_timeout_ms=_TIMEOUT_MS, **self._how)
            return self._connections[at]


def _topic(error: int, name: str, *told: Any) -> Topic | KafkaError:
    if error:
        return _error(error, name)
    high, low, _, partitions, operations, _ = told
    leaders = {partition: leader for _, partition, leader, *_ in partitions}
    epochs = {partition: epoch for _, partition, _, epoch, *_ in partitions}
    id = b64encode(pack(">qq", high, low)).decode().rstrip("=")
    return Topic(id, leaders, epochs, _operations(operations))


def _assigned(held: bytes) -> frozenset[TopicPartition]:
    """None where a client tells it in a way of its own."""
    try:
        told = ConsumerProtocol.ASSIGNMENT.decode(held)
    except ValueError:
        return frozenset()
    return frozenset((topic, partition) for topic, partitions in told.assignment for partition in partitions)


def _operations(bits: int) -> Operations:
    return None if bits == _UNTOLD else {name for bit, name in _OPERATIONS.items() if bits >> bit & 1}


def _check(code: int, about: str) -> None:
    if code:
        raise _error(code, about)


def _error(code: int, about: str) -> KafkaError:
    error: KafkaError = for_code(code)(about)
    return error
