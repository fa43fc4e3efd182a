"""One service's database in memory: rows, and who has locked which, as far as the kernel leans on Postgres.

READ COMMITTED: a statement sees what was committed when it began, and what its own transaction wrote. Who
wants a row that somebody else has locked or writes waits until that transaction ends, and then meets the
newest version of the row. What a transaction wrote becomes visible all at once, or never.

There is no deadlock detector: who waits in a circle waits until his limit, which is as long in Postgres.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import coroutine
from typing import Any

import psycopg
from sqlalchemy import Table, Text

from choreo.chassis.database import tables
from choreo.chassis.database.connection import LOCK_TIMEOUT_SECONDS
from choreo.chassis.transaction.positions import Position
from choreo.chassis.transaction.state_store import Memory, ReplayableStore

Name = tuple[Any, ...]
"""Of a row: its table, and the values of its primary key or of another column that is unique."""
Meet = Callable[[str], float]
"""What befalls a statement, by its name: how many seconds it takes. Raises what its client gets instead."""

CHECKS: Mapping[tuple[str, str], int] = {
    ("accounts", "balance"): 0,
    ("payments", "amount"): 1,
    ("ledger", "balance"): 0,
}
"""By table and column the least that its CHECK lets in."""

NOT_TEXT = 'invalid byte sequence for encoding "UTF8": 0x00'


@coroutine
def give_way() -> Generator[None, None, None]:
    """Others may go on."""
    yield


def nothing(statement: str) -> float:
    return 0.0


class Database:
    def __init__(
        self,
        states: ReplayableStore[Any],
        *,
        meet: Meet = nothing,
        is_shared: Callable[[], bool] = lambda: True,
        is_calm: Callable[[], bool] = lambda: False,
        is_quiet: Callable[[], bool] = lambda: False,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    ) -> None:
        """`is_shared`: whether more than one process that is alive uses it. `is_calm`: whether nothing
        befalls the next statements. `is_quiet`: and nobody wants to hear of them.
        """
        self.is_calm = is_calm
        self.is_quiet = is_quiet
        self.states = states
        self.sessions = 0
        """So many transactions are not over."""
        self.listeners: dict[Any, Callable[[], None]] = {}
        """By session that listens, who is told."""
        self.readable: Callable[[int], None] = lambda file: None
        """Called where a client's socket of this number has something to be read."""
        self.before_commit: Callable[[Mapping[Name, Any]], None] = lambda written: None
        """Shown what becomes visible next."""
        self.meet = meet
        self.is_shared = is_shared
        self.committed: dict[str, dict[Name, Any]] = defaultdict(dict)
        """By table, and there by name."""
        self.memory = Memory(states.mappings)
        """The committed rows of states, found in the ways in which they are loaded."""
        self.holders: dict[Name, Session] = {}
        """Who has locked a row, or written what others cannot see yet."""
        self.waiting = 0
        """So many sessions wait for a lock."""
        self.carried_out: set[str] = set()
        """Statements."""
        self.met: set[tuple[str, str]] = set()
        """Statements that waited for somebody else's transaction, each with the last one of that."""
        self.mapping_of = {mapping.table.name: mapping for mapping in states.mappings}
        self._lock_timeout_seconds = lock_timeout_seconds
        self.numbers: Counter[str] = Counter()
        """The last that was drawn, by table."""

    def begin(self, places: Iterable[Position]) -> None:
        """As the consumer does before it first reads a partition."""
        for place in places:
            self.committed["positions"].setdefault(("positions", *place.place), place)

    async def turn(self, statement: str) -> None:
        """Awaited before a statement that is no part of a transaction: others may go on meanwhile."""
        await give_way()
        if seconds := self.meet(statement):
            await asyncio.sleep(seconds)

    def rows(self, table: str) -> list[Any]:
        """Those that are committed."""
        return list(self.committed[table].values())

    def next_number(self, table: str) -> int:
        """Of its identity column: drawn at once, and not given back."""
        self.numbers[table] += 1
        return self.numbers[table]

    async def until_ended(self, waiter: "Session", other: "Session") -> None:
        """Returns when that transaction is over. Raises what Postgres raises for who waits too long."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        other.waiters.append(ended)
        self.met.add((waiter.at, other.at))
        self.waiting += 1
        try:
            async with asyncio.timeout(self._lock_timeout_seconds):
                await ended
        except TimeoutError:
            raise psycopg.errors.LockNotAvailable("canceling statement due to lock timeout") from None
        finally:
            self.waiting -= 1


class Session:
    """One transaction: what it has locked and written. It is over once it has ended, one way or the other."""

    def __init__(self, database: Database) -> None:
        self.waiters: list[asyncio.Future[None]] = []
        self.at = "outside"
        """Its last statement."""
        self.database = self._database = database
        self._is_open = False
        self._locked: set[Name] = set()
        self._written: dict[Name, Any] = {}
        """By name; what is deleted is None. Of a further unique column the name of the row."""
        self._open()

    @property
    def is_open(self) -> bool:
        """It has done something that is not over."""
        return self._is_open

    @property
    def is_alone(self) -> bool:
        """Nobody else could tell in which order its statements are carried out: so that is not drawn."""
        return self._database.sessions == self._is_open and not self._database.is_shared()

    def begin(self, statement: str) -> None:
        self.at = statement
        self._database.carried_out.add(statement)

    def _open(self) -> None:
        if not self._is_open:
            self._is_open = True
            self._database.sessions += 1

    def end(self, *, commit: bool) -> None:
        """Nothing is awaited: others see all of it or nothing. What is written afterwards is another one."""
        if self._is_open:
            self._is_open = False
            self._database.sessions -= 1
        if commit:
            self._publish()
        for name in self._locked:
            del self._database.holders[name]
        self._locked, self._written = set(), {}
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _publish(self) -> None:
        database = self._database
        database.before_commit(self._written)
        for name, row in self._written.items():
            table = name[0]
            if row is None:
                database.committed[table].pop(name, None)
                continue
            database.committed[table][name] = row
            if mapping := database.mapping_of.get(table):
                database.memory.put(mapping, row)

    # -- reading ---------------------------------------------------------------------------------

    def visible(self, name: Name) -> Any | None:
        if name in self._written:
            return self._written[name]
        return self._database.committed[name[0]].get(name)

    def all(self, table: str) -> Iterator[Any]:
        """Rows that are visible, those of its own last."""
        committed = self._database.committed[table]
        yield from (row for name, row in committed.items() if name not in self._written)
        yield from (row for name, row in self._written.items() if name[0] == table and row is not None)

    def states(self) -> Memory:
        """The rows of states that are visible."""
        mappings = self._database.mapping_of
        if not any(name[0] in mappings for name in self._written):
            return self._database.memory
        memory = Memory(self._database.states.mappings)
        for table, mapping in mappings.items():
            for row in self.all(table):
                memory.put(mapping, row)
        return memory

    # -- locking and writing ---------------------------------------------------------------------

    async def lock(self, names: Iterable[Name]) -> list[Any]:
        """SELECT ... FOR UPDATE: the newest version of each that was there when the statement began."""
        there = [name for name in names if self.visible(name) is not None]
        for name in there:
            await self._take(name)
        return [row for name in there if (row := self.visible(name)) is not None]

    def lock_free(self, names: Iterable[Name]) -> None:
        """SELECT ... FOR UPDATE SKIP LOCKED."""
        for name in names:
            if self._database.holders.get(name, self) is self:
                self._hold(name)

    async def update(self, name: Name, change: Callable[[Any], Any]) -> None:
        if self.visible(name) is not None:
            await self._take(name)
            self._written[name] = change(self.visible(name))

    async def delete(self, name: Name) -> None:
        if self.visible(name) is not None:
            await self._take(name)
            self._written[name] = None

    async def insert(self, table: Table, row: Any, *, unless_there: bool = False) -> None:
        """Rejected, or left out, where a row of one of its names is there. Waits for who writes one."""
        _check(table, row)
        for name in _names(table, row):
            if await self._is_there(name):
                if unless_there:
                    return
                raise psycopg.errors.UniqueViolation(
                    f"duplicate key value violates unique constraint of {table.name}: {name[1:]}"
                )
            self._hold(name)
            self._written[name] = row

    async def replace(self, table: Table, row: Any) -> None:
        """INSERT ... ON CONFLICT (primary key) DO UPDATE."""
        _check(table, row)
        primary, *_ = _names(table, row)
        if await self._is_there(primary):
            await self._take(primary)
            self._written[primary] = row
        else:
            await self.insert(table, row)

    def write_beside(self, table: str, key: object, row: Any) -> None:
        """What no mapping knows. Over the one with this key."""
        self.write((table, key), row)

    def write(self, name: Name, row: Any) -> None:
        """Of one that nobody else holds. None: it is deleted."""
        self._hold(name)
        self._written[name] = row

    async def _is_there(self, name: Name) -> bool:
        """Waits for who writes it, and not for who has only locked it."""
        while (holder := self._database.holders.get(name)) not in (None, self):
            assert holder
            if name not in holder._written:
                break
            await self._database.until_ended(self, holder)
        return self.visible(name) is not None

    async def _take(self, name: Name) -> None:
        while (holder := self._database.holders.get(name)) not in (None, self):
            assert holder
            await self._database.until_ended(self, holder)
        self._hold(name)

    def _hold(self, name: Name) -> None:
        self._open()
        self._database.holders[name] = self
        self._locked.add(name)


@cache
def _unique(table: Table) -> tuple[tuple[str, ...], ...]:
    """Its primary key, then other columns that are unique, each with its table's part of a name."""
    primary = tuple(column.name for column in table.primary_key.columns)
    if table is tables.parked:
        return (("id",),)
    return (primary, *((column.name,) for column in table.columns if column.unique))


@cache
def _naming(table: Table) -> tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Its name, the columns of its primary key, and each other unique one with its part of a name."""
    first, *others = _unique(table)
    return table.name, first, tuple((f"{table.name}.{column}", column) for (column,) in others)


def _names(table: Table, row: Any) -> Sequence[Name]:
    name, primary, others = _naming(table)
    return [
        (name, *[getattr(row, column) for column in primary]),
        *[(part, getattr(row, column)) for part, column in others],
    ]


@cache
def _checked(table: Table) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """Its columns of text, and those that have a least value, with it."""
    texts = tuple(column.name for column in table.columns if isinstance(column.type, Text))
    return texts, tuple((column, least) for (name, column), least in CHECKS.items() if name == table.name)


def _check(table: Table, row: Any) -> None:
    """Raises what Postgres raises for values that it does not take."""
    texts, bounds = _checked(table)
    for column in texts:
        if "\0" in (getattr(row, column) or ""):
            raise psycopg.errors.CharacterNotInRepertoire(NOT_TEXT)
    for column, least in bounds:
        if getattr(row, column) < least:
            raise psycopg.errors.CheckViolation(f"new row for {table.name} violates a check of {column}")
