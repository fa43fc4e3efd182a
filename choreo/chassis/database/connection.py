"""Connections to Postgres, and what their errors say."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import PoolProxiedConnection, PoolResetState
from sqlalchemy.util import greenlet_spawn

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

ANSWER_TIMEOUT_SECONDS = 10.0
"""A server that is silent for longer is given up, and the connection with it: its process may be stopped."""
CONNECT_TIMEOUT_SECONDS = 5
LOCK_TIMEOUT_SECONDS = 1.0
"""Nobody holds a row for longer who is not in trouble: whoever waits goes on with something else."""
POOL_TIMEOUT_SECONDS = 5.0

_LIMITS: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": int(ANSWER_TIMEOUT_SECONDS * 1000),
}
"""libpq's own limits are none."""

_OF_A_SERVICE = {
    "plan_cache_mode": "force_generic_plan",
    "max_parallel_workers_per_gather": "0",
    "lock_timeout": f"{LOCK_TIMEOUT_SECONDS * 1000:.0f}",
    "statement_timeout": f"{ANSWER_TIMEOUT_SECONDS * 1000 - 1000:.0f}",
    "idle_in_transaction_session_timeout": f"{ANSWER_TIMEOUT_SECONDS * 1000:.0f}",
}
"""Settings of its sessions. The last frees what a process holds that was stopped in its transaction."""


class _BoundedConnection(psycopg.AsyncConnection[Any]):
    """Gives up a server that does not answer. Everything that waits for one goes through `wait`, and is not
    woken every tenth of a second, as the driver has it for a Ctrl-C: asyncio tells of that.
    """

    async def wait(
        self, gen: Any, interval: float = ANSWER_TIMEOUT_SECONDS, timeout: float | None = None
    ) -> Any:
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, ANSWER_TIMEOUT_SECONDS)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"the database did not answer within {ANSWER_TIMEOUT_SECONDS:g} s"
            ) from None


_SESSION = "-c timezone=UTC -c datestyle=ISO,YMD"
"""Whatever server, database and role say: a time that left a session in another form is another text."""


def session(url: str, options: str = "", **more: Any) -> dict[str, Any]:
    """What to connect with, for `psycopg.connect(**session(url))`: every session of ours is in UTC and UTF-8.

    `url` as libpq has it; what it gives as `options` holds, as far as it is not about time.
    The driver prepares nothing by itself: at a rollback it would forget what others have prepared, too.
    """
    given = conninfo_to_dict(url)
    given["options"] = f"{given.get('options') or ''} {options} {_SESSION}".strip()
    return {**given, "client_encoding": "UTF8", "prepare_threshold": None, **more}


def unusable(url: str) -> str | None:
    """Why sessions with this database are none, where something that pools stands before it. Raises
    psycopg.Error where it cannot be asked.
    """
    with (
        psycopg.connect(**session(url, connect_timeout=CONNECT_TIMEOUT_SECONDS), autocommit=True) as one,
        psycopg.connect(**session(url, connect_timeout=CONNECT_TIMEOUT_SECONDS)) as other,
    ):
        pids = [_one(conn, "SELECT pg_backend_pid()") for conn in (one, other, one)]
        if pids[0] == pids[1] or pids[0] != pids[2]:
            return "something before it pools by transaction, and locks and LISTEN need a session"
        if _one(one, "SELECT current_setting('timezone')") != "UTC":
            return "something before it drops the session's options"
    return None


def _one(conn: psycopg.Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def make_engine(url: str, *, pool_size: int = 5, serving: bool = True, name: str = "choreo") -> AsyncEngine:
    """`url` as libpq has it. At most `pool_size` connections, opened as needed, which Postgres lists by
    `name`.

    A service's waits all have a limit (`serving`). A tool may read for as long as it takes.

    A service finds its rows by key. On young tables the planner would scan instead, and a prepared
    statement would keep to that after they have grown. It is planned once, and not for each transaction.
    """
    connection = _BoundedConnection if serving else psycopg.AsyncConnection
    settings = {"enable_seqscan": "off"} | (_OF_A_SERVICE if serving else {})
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=lambda: connection.connect(**session(url, options, application_name=name, **_LIMITS)),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        pool_reset_on_return=None,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "reset", _roll_back)
    return engine


def _roll_back(pooled: Any, _: object, how: PoolResetState) -> None:
    """What comes back to the pool without a transaction, as nearly all does, is not asked to end one."""
    begun = pooled.driver_connection.pgconn.transaction_status != TransactionStatus.IDLE
    if begun and how.asyncio_safe:
        pooled.rollback()


@asynccontextmanager
async def raw_connection(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """The driver's connection from SQLAlchemy's pool. What is not committed is rolled back.

    One that failed for its own state, and not for what it was asked, is thrown away. SQLAlchemy's own
    connection would stand between, and cost as much again as the pool.
    """
    pooled = await engine.raw_connection()
    end: Callable[[], None] = pooled.close
    try:
        yield _driver(pooled)
    except BaseException as error:
        if failure_of(error) in (Failure.AWAY, Failure.ENDED):
            end = pooled.invalidate
        raise
    finally:
        await greenlet_spawn(end)


@asynccontextmanager
async def own_connection(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A driver's connection in autocommit whose session, with all it set and locked, ends with the block."""
    pooled = await engine.raw_connection()
    try:
        driver = _driver(pooled)
        await driver.set_autocommit(True)
        yield driver
    finally:
        await greenlet_spawn(pooled.invalidate)


def _driver(pooled: PoolProxiedConnection) -> Connection:
    driver = pooled.driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    return driver


async def probe_writing(conn: Connection) -> None:
    """Raises unless this session may write: one that began while the database was read-only may not."""
    await conn.execute("/* probe.write */ UPDATE keys SET sequence = sequence WHERE false")
    await conn.rollback()


class Failure(Enum):
    """What the error of a transaction says about where the trouble is."""

    AWAY = "the database cannot be used"
    """Not to be asked, shutting down, out of space, read-only: wait, and try the same again."""
    ENDED = "an administrator ends sessions of the database"
    """Likewise, and no input ever made it so."""
    UNFIT = "the database is not as this program needs it"
    """A table, a column or a grant is missing: a person is needed, and then the same is tried again."""
    LOCKED = "something is locked by somebody else"
    CONFLICT = "another transaction was in the way"
    """A deadlock: the same again, at once."""
    INPUT = "an input cannot be written"
    """The database understood and rejected the data, or we could not even send it."""


def failure_of(error: BaseException) -> Failure:
    """By its SQLSTATE. That says what the server noticed, not whose fault it is: see `Kernel`."""
    if not isinstance(error, psycopg.Error):
        return Failure.AWAY if isinstance(error, SQLAlchemyError | OSError | TimeoutError) else Failure.INPUT
    state = error.sqlstate
    if state is None:
        return Failure.AWAY if isinstance(error, psycopg.OperationalError) else Failure.INPUT
    if state == "55P03":
        return Failure.LOCKED
    if state == "57P01":
        return Failure.ENDED
    if state == "25006" or state[:2] in ("08", "25", "26", "28", "53", "55", "57", "58", "F0", "XX"):
        return Failure.AWAY
    if state[:2] in ("0A", "3D", "3F", "42"):
        return Failure.UNFIT
    return Failure.CONFLICT if state[:2] == "40" else Failure.INPUT
