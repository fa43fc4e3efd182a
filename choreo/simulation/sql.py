"""The database in memory for those who ask in SQL: relay, consumer, mailer, timers and admission.

They get a driver's connection, and each of their statements is known by the name in its first comment. Its
text is not read: what a statement means is said here once more, as far as its rows are concerned.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache, partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from choreo.chassis.transaction.positions import Position
from choreo.simulation.database import Session
from choreo.simulation.store import MemoryStore, MemoryTransaction

Rows = list[dict[str, Any]]
Statement = Callable[[Session, datetime, Any], Rows | Awaitable[Rows]]
"""Of what its session sees, the database's clock and its values, rows by column. Awaited where it may have to
wait for a row.
"""

_NAME = re.compile(r"/\* ([\w.]+)")
_FILES = count(1)


class MemoryEngine:
    """As far as `raw_connection` and `own_connection` ask for SQLAlchemy's."""

    def __init__(self, store: MemoryStore[Any], clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    async def raw_connection(self) -> "_Pooled":
        return _Pooled(self._store, self._store.open(), self._clock)


class _Pooled:
    def __init__(
        self, store: MemoryStore[Any], opened: MemoryTransaction[Any], clock: Callable[[], datetime]
    ) -> None:
        self.driver_connection = MemoryConnection(store, opened, clock)
        self.close = self.invalidate = partial(store.close, opened)


class MemoryConnection(psycopg.AsyncConnection[Any]):
    """Whoever dies leaves its session to the store, which ends it."""

    def __init__(
        self, store: MemoryStore[Any], opened: MemoryTransaction[Any], clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._opened = opened
        self._clock = clock
        self._commits = False
        self._file = next(_FILES)
        self._handlers: list[Callable[[Any], None]] = []
        self._told = False

    def __del__(self, *_: Any) -> None:
        """There is nothing to be closed."""

    async def set_autocommit(self, value: bool) -> None:
        self._commits = value

    async def execute(self, query: Any, params: Any = None, **_: Any) -> Any:
        cursor = _Cursor(self, None)
        return await cursor.execute(query, params)

    def cursor(self, *_: Any, row_factory: Any = None, **__: Any) -> Any:
        return _Cursor(self, row_factory)

    async def commit(self) -> None:
        await self._opened.commit()

    async def rows(self, name: str, values: Any) -> Rows:
        """Carried out by the server, whatever becomes of who asked. Raises psycopg.Error."""
        statement = STATEMENTS.get(name) or {"relay.listen": self._listen, "relay.tell": self._tell}[name]

        def carry_out() -> Rows | Awaitable[Rows]:
            return statement(self._opened.session, self._clock(), values)

        found: Rows = await self._opened.ask(name, carry_out, commits=self._commits and name not in READING)
        if self._told:
            self._told = False
            for handler in self._handlers:
                handler(SimpleNamespace(pid=0))
        return found

    # -- LISTEN and NOTIFY -----------------------------------------------------------------------

    def add_notify_handler(self, callback: Any) -> None:
        self._handlers.append(callback)

    @property
    def info(self) -> Any:
        return SimpleNamespace(backend_pid=self._file)

    def fileno(self) -> int:
        return self._file

    def _listen(self, *_: Any) -> Rows:
        self._store.database.listeners[self._opened] = self._hear
        return []

    def _tell(self, *_: Any) -> Rows:
        for opened, hear in list(self._store.database.listeners.items()):
            if opened is not self._opened:
                hear()
        return []

    def _hear(self) -> None:
        """The server has written to it."""
        self._told = True
        self._store.database.readable(self._file)


class _Cursor:
    """What `class_row` reads of a cursor, and what is asked of it."""

    _encoding = "utf-8"

    def __init__(self, connection: MemoryConnection, row_factory: Any) -> None:
        self._connection = connection
        self._row_factory = row_factory
        self._rows: list[Any] = []
        self.pgresult: Any = None

    async def __aenter__(self) -> "_Cursor":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def execute(self, query: Any, params: Any = None) -> "_Cursor":
        name = _name(query if isinstance(query, str) else query.decode())
        found = await self._connection.rows(name, params)
        if self._row_factory is None or not found:
            self._rows = [tuple(row.values()) for row in found]
            return self
        names = list(found[0])
        self.pgresult = SimpleNamespace(
            nfields=len(names), status=ExecStatus.TUPLES_OK, fname=lambda index: names[index].encode()
        )
        make = self._row_factory(self)
        self._rows = [make(tuple(row.values())) for row in found]
        return self

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None


class MemoryTrip:
    """As far as `RoundTrip` is used outside of the kernel's store."""

    def __init__(self, conn: MemoryConnection) -> None:
        self._conn = conn
        self._asked: list[tuple[str, Any, list[Any], Callable[..., Any]]] = []

    async def __aenter__(self) -> "MemoryTrip":
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await self.send()

    def add(self, statement: Any, *columns: Sequence[Any], row: Any = None) -> list[Any]:
        rows: list[Any] = []
        self._asked.append((_name(statement.text), columns, rows, row or _tuple))
        return rows

    async def send(self) -> None:
        asked, self._asked = self._asked, []
        for name, values, rows, row in asked:
            rows += [row(*found.values()) for found in await self._conn.rows(name, values)]

    async def commit(self) -> None:
        await self.send()
        await self._conn.commit()


def _tuple(*values: Any) -> tuple[Any, ...]:
    return values


@lru_cache(maxsize=1000)
def _name(text: str) -> str:
    found = _NAME.search(text)
    return found.group(1) if found else text.split("=")[0].strip()


# What each statement finds and writes. Most pass over what is locked.


def _is_free(session: Session, name: tuple[Any, ...]) -> bool:
    return session.database.holders.get(name, session) is session


def positions_read(session: Session, now: datetime, values: Any) -> Rows:
    (topics,) = values
    found = sorted(
        (row for row in session.all("positions") if row.topic in topics), key=lambda row: row.place
    )
    return [{name: getattr(row, name) for name in Position.__slots__} for row in found]


def positions_begin(session: Session, now: datetime, values: Any) -> Rows:
    for topic, partition, topic_id, cluster_id in zip(*values, strict=True):
        name = "positions", topic, partition
        if session.visible(name) is None and _is_free(session, name):
            session.write(name, Position(topic, partition, 0, topic_id, cluster_id))
    return []


def outbox_rows(session: Session) -> list[Any]:
    return sorted(session.all("outbox"), key=lambda row: row.position)


def outbox_lowest(session: Session, now: datetime, values: Any) -> Rows:
    partitions, (limit,) = values
    found = [row for row in outbox_rows(session) if row.partition in partitions]
    columns = ("event_id", "key", "partition", "value", "headers", "decided_at", "position")
    return [{name: getattr(row, name) for name in columns} for row in found[:limit]]


async def outbox_remove(session: Session, now: datetime, values: Any) -> Rows:
    for position in values[0]:
        await session.delete(("outbox", position))
    return []


def outbox_strays(session: Session, now: datetime, values: Any) -> Rows:
    strays = {row.partition for row in outbox_rows(session) if row.partition >= values[0]}
    return [{"partition": partition} for partition in sorted(strays)]


def outbox_since(session: Session, now: datetime, values: Any) -> Rows:
    oldest: dict[int, datetime] = {}
    for row in outbox_rows(session):
        oldest[row.partition] = min(row.decided_at, oldest.get(row.partition, row.decided_at))
    return [{"partition": partition, "min": since} for partition, since in oldest.items()]


def relay_leases_declare(session: Session, now: datetime, values: Any) -> Rows:
    for partition in values[0]:
        name = "relay_leases", partition
        if session.visible(name) is None and _is_free(session, name):
            session.write(name, SimpleNamespace(partition=partition, owner=None, until=now))
    return []


def is_ours_or_free(row: Any, owner: Any, now: datetime) -> bool:
    """A real clock goes on between two statements: what is free from now on is free for the next one."""
    return bool(row.owner == owner or row.until <= now)


def relay_leases_lease(session: Session, now: datetime, values: Any) -> Rows:
    taken = []
    for partition in values["partitions"]:
        name = "relay_leases", partition
        row = session.visible(name)
        if row is not None and _is_free(session, name) and is_ours_or_free(row, values["owner"], now):
            until = now + values["time"]
            session.write(name, SimpleNamespace(partition=partition, owner=values["owner"], until=until))
            taken.append({"partition": partition})
    return taken


def relay_leases_unowned(session: Session, now: datetime, values: Any) -> Rows:
    partitions, time = values
    rows = (row for row in session.all("relay_leases") if row.partition in partitions)
    return [{"partition": row.partition} for row in rows if row.until < now - time]


def relay_leases_release(session: Session, now: datetime, values: Any) -> Rows:
    for row in list(session.all("relay_leases")):
        name = "relay_leases", row.partition
        if row.owner == values[0] and row.until > now and _is_free(session, name):
            session.write(name, SimpleNamespace(partition=row.partition, owner=row.owner, until=now))
    return []


def parked_blocked(session: Session, now: datetime, values: Any) -> Rows:
    parked = {row.key for row in session.all("parked")}
    return [{"key": key} for key in sorted(parked.intersection(values[0]))]


def _write_lease(session: Session, lease: Any, **changed: Any) -> None:
    session.write(("leases", lease.id), SimpleNamespace(**vars(lease) | changed))


def _pending(session: Session) -> Iterator[tuple[Any, Any, Any]]:
    """Notifications whose address is known, with recipient and lease. The oldest first."""
    for row in sorted(session.all("notifications"), key=lambda row: (row.created_at, row.id)):
        recipient = session.visible(("recipients", row.user_id))
        names = ("notifications", row.id), ("leases", row.id)
        if row.status == "pending" and recipient and all(_is_free(session, name) for name in names):
            yield row, recipient, session.visible(names[1])


def _mail(row: Any, recipient: Any, attempts: int, delivered: bool | None) -> dict[str, Any]:
    columns = ("subject", "text", "event_id", "correlation_id", "trace_id")
    found = {"id": row.id, "user_id": row.user_id, "email": recipient.email}
    found |= {name: getattr(row, name) for name in columns}
    return found | {"attempts": attempts, "delivered": delivered}


def _until(now: datetime, milliseconds: int) -> datetime:
    return now + timedelta(milliseconds=milliseconds)


def leases_take(session: Session, now: datetime, values: Any) -> Rows:
    found = [(row, recipient) for row, recipient, lease in _pending(session) if lease is None]
    for row, _ in found:
        until, (owner,) = _until(now, values[0][0]), values[1]
        lease = SimpleNamespace(id=row.id, until=until, attempts=1, delivered=None, owner=owner)
        session.write(("leases", row.id), lease)
    return [_mail(row, recipient, 1, None) for row, recipient in found]


def leases_take_again(session: Session, now: datetime, values: Any) -> Rows:
    found = [one for one in _pending(session) if one[2] is not None and one[2].until <= now]
    found.sort(key=lambda one: one[2].attempts)
    for _, _, lease in found:
        until, (owner,) = _until(now, values[0][0]), values[1]
        _write_lease(session, lease, until=until, attempts=lease.attempts + 1, owner=owner)
    return [_mail(row, to, lease.attempts + 1, lease.delivered) for row, to, lease in found]


def _unlocked(session: Session, ids: Sequence[Any]) -> list[Any]:
    names = [("leases", id) for id in ids]
    return [lease for name in names if (lease := session.visible(name)) and _is_free(session, name)]


def leases_take_over(session: Session, now: datetime, values: Any) -> Rows:
    (owner,) = values[0]
    ids = [lease.id for lease in session.all("leases") if lease.owner == owner]
    for lease in _unlocked(session, ids):
        _write_lease(session, lease, until=now)
    return []


def leases_hold(session: Session, now: datetime, values: Any) -> Rows:
    for lease in _unlocked(session, values[0]):
        _write_lease(session, lease, until=_until(now, values[1][0]))
    return []


def leases_let_go(session: Session, now: datetime, values: Any) -> Rows:
    for lease in _unlocked(session, values[0]):
        if lease.attempts == 1:
            session.write(("leases", lease.id), None)
        else:
            _write_lease(session, lease, until=now, attempts=lease.attempts - 1)
    return []


def leases_put_off(session: Session, now: datetime, values: Any) -> Rows:
    there = {id for id in values[0] if session.visible(("leases", id))}
    given = {id: (pause, delivered) for id, pause, delivered in zip(*values, strict=True)}
    for lease in _unlocked(session, values[0]):
        pause, delivered = given[lease.id]
        _write_lease(session, lease, until=_until(now, pause), delivered=delivered, owner=None)
        there.discard(lease.id)
    return [{"notification_id": id} for id in sorted(there)]


def leases_drop(session: Session, now: datetime, values: Any) -> Rows:
    for lease in _unlocked(session, values[0]):
        session.write(("leases", lease.id), None)
    return []


def leases_sweep(session: Session, now: datetime, values: Any) -> Rows:
    settled = [row.id for row in session.all("notifications") if row.status != "pending"]
    return leases_drop(session, now, [settled])


def _undecided(session: Session) -> list[Any]:
    found = [row for row in session.all("orders") if row.status == "created"]
    return sorted(found, key=lambda row: (row.decide_by, row.id))


def orders_next_deadline(session: Session, now: datetime, values: Any) -> Rows:
    found = _undecided(session)
    return [{"min": found[0].decide_by if found else None}]


def orders_due(session: Session, now: datetime, values: Any) -> Rows:
    due, after, id, limit = values
    columns = ("id", "user_id", "decide_by", "event_id", "correlation_id", "trace_id")
    found = [
        row for row in _undecided(session) if row.decide_by <= due and (row.decide_by, row.id) > (after, id)
    ]
    return [{name: getattr(row, name) for name in columns} for row in found[:limit]]


def waits_for_no_person(session: Session, row: Any) -> bool:
    return all(parked.key != str(row.user_id) for parked in session.all("parked"))


def orders_undecided_since(session: Session, now: datetime, values: Any) -> Rows:
    answered = [row.decide_by for row in session.all("orders") if row.payment != "undecided"]
    found = [
        row
        for row in _undecided(session)
        if waits_for_no_person(session, row) and (not answered or row.decide_by > max(answered))
    ]
    return [{"created_at": row.created_at} for row in found[values[0] :][:1]]


def nothing(session: Session, now: datetime, values: Any) -> Rows:
    return []


STATEMENTS: dict[str, Statement] = {
    "positions.read": positions_read,
    "positions.begin": positions_begin,
    "outbox.lowest": outbox_lowest,
    "outbox.remove": outbox_remove,
    "outbox.strays": outbox_strays,
    "outbox.since": outbox_since,
    "relay_leases.declare": relay_leases_declare,
    "relay_leases.lease": relay_leases_lease,
    "relay_leases.unowned": relay_leases_unowned,
    "relay_leases.release": relay_leases_release,
    "parked.blocked": parked_blocked,
    "leases.take": leases_take,
    "leases.take_again": leases_take_again,
    "leases.sweep": leases_sweep,
    "leases.take_over": leases_take_over,
    "leases.hold": leases_hold,
    "leases.let_go": leases_let_go,
    "leases.put_off": leases_put_off,
    "leases.drop": leases_drop,
    "orders.next_deadline": orders_next_deadline,
    "orders.due": orders_due,
    "orders.undecided_since": orders_undecided_since,
    "SET synchronous_commit": nothing,
}
READING = frozenset(
    {
        "positions.read",
        "outbox.lowest",
        "outbox.strays",
        "outbox.since",
        "relay_leases.unowned",
        "parked.blocked",
        "orders.next_deadline",
        "orders.due",
        "orders.undecided_since",
        "SET synchronous_commit",
    }
)
"""They leave nothing to be committed."""
