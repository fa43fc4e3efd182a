"""What became of the orders, seen from outside: metrics while the load runs, journals once it is over."""

import asyncio
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from choreo.benchmarks.connection import Connection
from choreo.chassis.database.connection import session
from choreo.chassis.kafka.log_reader import LogReader
from choreo.message.catalog import topic_of
from choreo.operations.reading.installation import observer_access

OUTCOMES = ("PaymentConfirmed", "PaymentRejected")

_APPLIED = re.compile(rb'^choreo_facts_heard_total\{outcome="applied",type="\w+"\} ([0-9.e+]+)', re.MULTILINE)

_WHEN = """/* bench.when: at which moment the transaction was committed that applied each flow's input */
SELECT correlation_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM journal
WHERE correlation_id = ANY(%s) AND type = ANY(%s) AND outcome = 'applied'"""

_WHEN_ALL = """/* bench.when_all: the same of all flows whose input was decided since a moment */
SELECT correlation_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM journal
WHERE type = ANY(%s) AND outcome = 'applied' AND decided_at >= to_timestamp(%s)"""

_TO_DECIDE = """/* bench.to_decide: seconds from the order to the COMMIT of its outcome */
SELECT extract(epoch FROM pg_xact_commit_timestamp(outcome.xmin) - placed.decided_at)::float8
FROM journal AS placed JOIN journal AS outcome USING (correlation_id)
WHERE placed.type = 'PlaceOrder' AND correlation_id = ANY(%s)
AND outcome.type = ANY(%s) AND outcome.outcome = 'applied'"""

_HOW_MANY = """/* bench.how_many: inputs of these types between two moments */
SELECT count(*) FROM journal
WHERE type = ANY(%s) AND outcome = 'applied'
AND decided_at >= to_timestamp(%s) AND decided_at < to_timestamp(%s)"""

_UNDECIDED = """/* bench.undecided: orders nobody has decided about */
SELECT count(*) FROM orders WHERE status = 'created'"""

_PENDING = """/* bench.pending: mails still to be sent */
SELECT count(*) FROM notifications WHERE status = 'pending'"""

_UNMAILED = """/* bench.unmailed: mails still to be sent, and those of which no topic tells yet */
SELECT (SELECT count(*) FROM notifications WHERE status = 'pending') + (SELECT count(*) FROM outbox)"""

_ORDERS = """/* bench.orders: by status */
SELECT status, count(*) FROM orders GROUP BY status ORDER BY status"""

_AN_ORDER = """/* bench.an_order: the latest that came to this */
SELECT id::text FROM orders WHERE status = %s ORDER BY created_at DESC LIMIT 1"""

_PARKED = """/* bench.parked: events that need a person */
SELECT count(*) FROM parked"""

_REFUSE = """/* bench.refuse: whatever is to be paid by this user is refused */
ALTER TABLE payments ADD CONSTRAINT bench CHECK (user_id <> {}) NOT VALID"""

_ACCEPT = """/* bench.accept: again */
ALTER TABLE payments DROP CONSTRAINT bench"""

_HOLD_MAILS = """/* bench.hold_mails: until this transaction ends */
LOCK TABLE leases IN ACCESS EXCLUSIVE MODE"""


class Applied:
    """How many facts a service has applied since `begin`, by its metrics."""

    def __init__(self, port: int) -> None:
        self._connection = Connection(port)
        self._at_begin = 0

    async def begin(self) -> None:
        self._at_begin = await self._read()

    async def count(self) -> int:
        return await self._read() - self._at_begin

    def close(self) -> None:
        self._connection.close()

    async def _read(self) -> int:
        answer = await self._connection.request("GET", "/metrics")
        return sum(int(float(number)) for number in _APPLIED.findall(answer.body))


@dataclass(frozen=True)
class Journals:
    """Opened with the owner's credentials, only while nothing is measured."""

    owner_urls: Mapping[str, str]

    def when_committed(
        self, service: str, flows: Collection[UUID], types: Collection[str] = OUTCOMES
    ) -> dict[UUID, float]:
        """By flow: Postgres' clock, in seconds since the epoch, at the COMMIT that applied such an input.

        Postgres must have run with `track_commit_timestamp`.
        """
        with psycopg.connect(**session(self.owner_urls[service])) as conn:
            return dict(conn.execute(_WHEN, [list(flows), list(types)]).fetchall())

    def has_all(self, service: str, flows: Collection[UUID]) -> bool:
        """Whether the outcome of each is committed."""
        return len(self.when_committed(service, flows)) == len(flows)

    def when_finished(self, since: float) -> dict[UUID, float]:
        """By flow, of those that are both decided and notified: when the later of both was committed."""
        decided, notified = (self._when_all(service, since) for service in ("order", "notification"))
        return {flow: max(decided[flow], notified[flow]) for flow in decided.keys() & notified.keys()}

    def _when_all(self, service: str, since: float) -> dict[UUID, float]:
        with psycopg.connect(**session(self.owner_urls[service])) as conn:
            return dict(conn.execute(_WHEN_ALL, [list(OUTCOMES), since]).fetchall())

    def seconds_to_decide(self, flows: Collection[UUID]) -> list[float]:
        """From the moment an order was placed to the COMMIT of billing's outcome, for all that have one."""
        with psycopg.connect(**session(self.owner_urls["order"])) as conn:
            rows = conn.execute(_TO_DECIDE, [list(flows), list(OUTCOMES)]).fetchall()
            return [seconds for (seconds,) in rows]

    def how_many(self, service: str, types: Collection[str], since: float, until: float) -> int:
        with psycopg.connect(**session(self.owner_urls[service])) as conn:
            row = conn.execute(_HOW_MANY, [list(types), since, until]).fetchone()
            assert row is not None
            return int(row[0])

    def pending_mails(self) -> int:
        return self._count("notification", _PENDING)

    def unmailed(self) -> int:
        """Notifications whose `NotificationSent` is not published."""
        return self._count("notification", _UNMAILED)

    def undecided(self) -> int:
        return self._count("order", _UNDECIDED)

    def parked(self) -> int:
        return self._count("billing", _PARKED)

    def orders(self) -> dict[str, int]:
        with psycopg.connect(**session(self.owner_urls["order"])) as conn:
            return dict(conn.execute(_ORDERS).fetchall())

    def an_order(self, status: str) -> str:
        """Raises LookupError if there is none."""
        with psycopg.connect(**session(self.owner_urls["order"])) as conn:
            row = conn.execute(_AN_ORDER, [status]).fetchone()
            if row is None:
                raise LookupError(f"no order is {status}")
            return str(row[0])

    @contextmanager
    def billing_refuses(self, user: UUID) -> Iterator[None]:
        """Nothing this user orders can be written meanwhile, so that billing parks it."""
        with psycopg.connect(**session(self.owner_urls["billing"]), autocommit=True) as conn:
            conn.execute(sql.SQL(_REFUSE).format(str(user)))
            try:
                yield
            finally:
                conn.execute(_ACCEPT)

    @contextmanager
    def mails_wait(self) -> Iterator[None]:
        """Nobody can lease a mail meanwhile, so that none is sent."""
        with psycopg.connect(**session(self.owner_urls["notification"])) as conn:
            conn.execute(_HOLD_MAILS)
            yield

    def _count(self, service: str, query: str) -> int:
        with psycopg.connect(**session(self.owner_urls[service])) as conn:
            row = conn.execute(query.encode()).fetchone()
            assert row is not None
            return int(row[0])


async def when_mailed(facts: Mapping[str, Any], since: float) -> dict[UUID, float]:
    """By flow: the broker's clock, in seconds since the epoch, when it appended `NotificationSent`.

    Of those appended since that moment. Raises what is in `LOG_UNREADABLE`, and `NothingCame`.
    """
    topic, moment = facts["topic_prefix"] + topic_of("notification"), datetime.fromtimestamp(since, UTC)
    mailed: dict[UUID, float] = {}
    async with LogReader(observer_access(facts)) as reader:
        for place in [(topic, partition) for partition in range(facts["partitions"])]:
            next_offset, end = await reader.first_since(place, moment), await reader.latest(place)
            if next_offset is None:
                continue
            reader.assign({place: next_offset})
            while next_offset < end:
                async for fetched in reader.read_on(place):
                    next_offset = fetched.next_offset
                    for record in fetched.records:
                        headers = {name: value or b"" for name, value in record.record.headers}
                        if headers["ce_type"] == b"NotificationSent":
                            flow = UUID(headers["ce_correlationid"].decode())
                            mailed.setdefault(flow, record.timestamp / 1000)
    return mailed


async def until(enough: Callable[[], bool], patience: float, every: float = 0.1) -> float | None:
    """Seconds until it was enough; None if that took longer than `patience`."""
    since = time.monotonic()
    while not enough():
        if time.monotonic() - since > patience:
            return None
        await asyncio.sleep(every)
    return time.monotonic() - since
