"""Statements that are sent together and answered together, in one round trip.

Each is carried out after the one before it, as if it had been sent alone: in READ COMMITTED it sees what
others have committed by then, so what one statement locks a later one may look at. The first that fails ends
the trip with its error, and what comes after it is not carried out.

This is libpq's pipeline mode without the driver's own, which waits for BEGIN by itself and makes a cursor for
every statement.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count, starmap
from types import TracebackType
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many, send
from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from choreo.chassis.database.columns import column_type
from choreo.chassis.database.connection import Connection

T = TypeVar("T")

Later = Callable[[], T]
"""Returns what a trip brought, as soon as it is made."""

_VALUES = re.compile(r"\$(\d+)::([a-z ]+)(?:\([\d, ]+\))?\[\]", re.IGNORECASE)
_NUMBERS = count()


class Statement:
    """One of our own, whose values are whole columns: `$1::text[]` is a column of texts.

    Prepared when a session meets it first. Nothing from outside gets into its text.
    """

    def __init__(self, text: str, of_one: str | None = None) -> None:
        """`of_one` says the same of columns of one value each: there `$1` is that value. It spares Postgres a
        scan of each column, and most transactions write one row of a kind.
        """
        types = dict(_VALUES.findall(text))
        self.text = text
        self.name = b"statement_%d" % next(_NUMBERS)
        self.columns = [column_type(types[str(number)].lower()) for number in range(1, len(types) + 1)]
        self.oids = [type.array_oid for type in self.columns]
        self.of_one: Statement | None = None
        if of_one is not None:
            self.of_one = Statement(of_one)
            self.of_one.oids = [type.oid for type in self.columns]


class _Step(NamedTuple):
    statement: Statement
    values: Sequence[bytes | None] = ()
    rows: list[Any] | None = None
    """None where it is only prepared."""
    row: Callable[..., Any] | None = None


_BEGIN, _COMMIT, _FORGET = Statement("BEGIN"), Statement("COMMIT"), Statement("DEALLOCATE ALL")


class _Session:
    """What is known of a session; nothing of one that is new, or whose last trip failed."""

    def __init__(self) -> None:
        self.prepared: set[Statement] = set()
        self.loader = Transformer()
        """Has found out how values of each type are read. Not of the connection, which would never be
        collected then: that every session is in UTC and UTF-8 is what it would ask it.
        """


_sessions: WeakKeyDictionary[Connection, _Session] = WeakKeyDictionary()


class RoundTrip:
    """Gathers statements until they are sent. Serves for one trip after the other."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._steps: list[_Step] = []

    async def __aenter__(self) -> "RoundTrip":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Sends what the block has gathered."""
        if error is None:
            await self.send()

    def add(
        self, statement: Statement, *columns: Sequence[Any], row: Callable[..., Any] | None = None
    ) -> list[Any]:
        """Returns the list that holds its rows once it is sent: tuples, or what `row` makes of their values.

        Raises what Python raises for a value of another type than its column's.
        """
        types, values = statement.columns, list[bytes | None]()
        if statement.of_one and len(columns[0]) == 1:
            statement = statement.of_one
            for type, (value,) in zip(types, columns, strict=True):
                values.append(None if value is None else type.encode(value))
        else:
            values += [type.array(column) for type, column in zip(types, columns, strict=True)]
        rows: list[Any] = []
        self._steps.append(_Step(statement, values, rows, row))
        return rows

    async def commit(self) -> None:
        """Sends what is gathered, and commits with it. Raises psycopg.Error."""
        self.add(_COMMIT)
        await self.send()

    async def send(self) -> None:
        """Begins a transaction if there is none. Raises psycopg.Error."""
        gathered, self._steps = self._steps, []
        if not gathered:
            return
        conn = self._conn
        async with conn.lock:
            if conn.pgconn.transaction_status == TransactionStatus.IDLE and not conn.autocommit:
                gathered.insert(0, _Step(_BEGIN, rows=[]))
            session = _sessions.pop(conn, None)
            if session is None:
                gathered.insert(0, _Step(_FORGET))
                session = _Session()
            steps = list(_steps(gathered, session.prepared))
            results = await conn.wait(_exchange(conn.pgconn, steps))
            _sessions[conn] = session
        loader = session.loader
        for step, result in zip(steps, results, strict=True):
            if step.rows is not None and result.ntuples:
                loader.set_pgresult(result)
                found = loader.load_rows(0, result.ntuples, tuple)
                step.rows.extend(found if step.row is None else starmap(step.row, found))
        loader.set_pgresult(None)  # it would keep the last one


def _steps(gathered: Sequence[_Step], prepared: set[Statement]) -> Iterator[_Step]:
    """What is new to this session is prepared before it is carried out."""
    for step in gathered:
        if step.statement is not _FORGET and step.statement not in prepared:
            prepared.add(step.statement)
            yield _Step(step.statement)
        yield step


def _exchange(pgconn: PGconn, steps: Sequence[_Step]) -> PQGen[list[PGresult]]:
    """Returns the result of each step. Raises the error of the first that failed, though the server be gone.

    What was begun and cannot be ended leaves a connection that is of no use: it is closed.
    """
    results: list[PGresult] = []
    try:
        pgconn.enter_pipeline_mode()
        for step in steps:
            _put(pgconn, step)
        pgconn.pipeline_sync()
        yield from send(pgconn)
        for _ in range(len(steps) + 1):
            results += yield from fetch_many(pgconn)
        if pgconn.status == ConnStatus.OK:
            pgconn.exit_pipeline_mode()
    except BaseException as error:
        pgconn.finish()
        if isinstance(error, psycopg.Error):
            _raise_what_failed(results)
        raise
    _raise_what_failed(results)
    if len(results) != len(steps) + 1:
        raise psycopg.OperationalError("the connection is lost")
    return results[:-1]


def _raise_what_failed(results: Sequence[PGresult]) -> None:
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result)


def _put(pgconn: PGconn, step: _Step) -> None:
    """Nothing is sent yet, if not very much is waiting."""
    statement = step.statement
    if statement is _FORGET:
        pgconn.send_query_params(statement.text.encode(), None)
    elif step.rows is None:
        pgconn.send_prepare(statement.name, statement.text.encode(), param_types=statement.oids)
    else:
        formats = [Format.BINARY] * len(step.values)
        pgconn.send_query_prepared(statement.name, step.values, formats, Format.BINARY)
