"""What a replay has to remember and may be as long as a log: the latest in memory, what is older on disk.

The file is SQLite's temporary one: it has no name, is its owner's alone and goes with the process. As long as
everything finds room in memory there is none. What is in it is JSON, as in a recording.
"""

import sqlite3
from collections.abc import Callable, ItemsView, Iterator, MutableMapping, ValuesView
from itertools import islice
from typing import Any, Generic, TypeVar

from choreo.chassis.transaction.state_store import TableMapping
from choreo.replay.sources.rows import canonical, pack, unpacking

V = TypeVar("V")

IN_MEMORY = 2_000
"""So many values."""


class OnDisk(MutableMapping[Any, V]):
    """Values by name. A name is made of what JSON has, ids and times."""

    def __init__(
        self,
        pack: Callable[[V], bytes],
        unpack: Callable[[bytes], V],
        name_of: Callable[[V], Any] = lambda value: value,
    ) -> None:
        """`pack` raises TypeError for what has to stay in memory; `name_of` is asked in an iteration only."""
        self._pack, self._unpack, self._name_of = pack, unpack, name_of
        self._latest: dict[Any, V] = {}
        self._older: sqlite3.Connection | None = None
        self._stays = False
        """It cannot be packed."""

    def take_over(self, before: "OnDisk[V]", own: Callable[[V], V]) -> None:
        """Has from now on what that one had, which is not to be used any more. What lies on disk stays there;
        `own` is asked for the rest.
        """
        self._latest = {name: own(value) for name, value in before._latest.items()}
        self._older, self._stays = before._older, before._stays

    def __setitem__(self, name: Any, value: V) -> None:
        self._latest[name] = value
        if len(self._latest) > IN_MEMORY and not self._stays:
            self._put_away(IN_MEMORY // 2)

    def __getitem__(self, name: Any) -> V:
        if name in self._latest:
            return self._latest[name]
        if self._older:
            for (told,) in self._older.execute("SELECT told FROM older WHERE name = ?", (_key(name),)):
                return self._unpack(told)
        raise KeyError(name)

    def get(self, name: Any, default: Any = None) -> Any:
        """As any mapping's; most that is asked for is there never, and not worth an exception."""
        if name in self._latest:
            return self._latest[name]
        return default if self._older is None else super().get(name, default)

    def __delitem__(self, name: Any) -> None:
        there = name in self._latest
        self._latest.pop(name, None)
        if self._older:
            there |= bool(self._older.execute("DELETE FROM older WHERE name = ?", (_key(name),)).rowcount)
        if not there:
            raise KeyError(name)

    def __iter__(self) -> Iterator[Any]:
        return (name for name, _ in self.pairs())

    def __len__(self) -> int:
        return sum(1 for _ in self.pairs())

    def items(self) -> ItemsView[Any, V]:
        return _Items(self)

    def values(self) -> ValuesView[V]:
        return _Values(self)

    def pairs(self) -> Iterator[tuple[Any, V]]:
        if self._older:
            for (told,) in self._older.execute("SELECT told FROM older ORDER BY rowid"):
                value = self._unpack(told)
                if (name := self._name_of(value)) not in self._latest:
                    yield name, value
        yield from self._latest.items()

    def _put_away(self, count: int) -> None:
        names = list(islice(self._latest, count))
        try:
            packed = [(_key(name), self._pack(self._latest[name])) for name in names]
        except TypeError:
            self._stays = True
            return
        if self._older is None:
            self._older = _temporary("CREATE TABLE older (name BLOB PRIMARY KEY, told BLOB)")
        self._older.executemany("REPLACE INTO older VALUES (?, ?)", packed)
        for name in names:
            del self._latest[name]


class _Items(ItemsView[Any, V]):
    _mapping: OnDisk[V]

    def __iter__(self) -> Iterator[tuple[Any, V]]:
        return self._mapping.pairs()


class _Values(ValuesView[V]):
    _mapping: OnDisk[V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping.pairs())


def rows_on_disk(mapping: TableMapping) -> OnDisk[Any]:
    """Returns room for rows by primary key. Older ones come back as the database would give them."""
    unpack = unpacking([mapping.table.columns[name] for name in mapping.columns])

    def packed(row: Any) -> bytes:
        return pack([getattr(row, name) for name in mapping.columns])

    def unpacked(told: bytes) -> Any:
        return mapping.row_of(*unpack(told))

    return OnDisk(packed, unpacked, mapping.name_of)


class ListsOnDisk(Generic[V]):
    """Lists by name, of which each is read as a whole. Iteration is over names, the first that came first."""

    def __init__(self, pack: Callable[[V], bytes], unpack: Callable[[bytes], V]) -> None:
        """`pack` gives one line."""
        self._pack, self._unpack = pack, unpack
        self._latest: dict[Any, list[bytes]] = {}
        self._count = 0
        self._parts: dict[Any, int] = {}
        """By name: its latest part on disk, which names the one before; 0 where there is none."""
        self._older: sqlite3.Connection | None = None

    def add(self, name: Any, value: V) -> None:
        self._parts.setdefault(name, 0)
        self._latest.setdefault(name, []).append(self._pack(value))
        self._count += 1
        if self._count > IN_MEMORY:
            self._put_away()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __len__(self) -> int:
        return len(self._parts)

    def of(self, name: Any) -> list[V]:
        parts = [self._latest.get(name, [])]
        part = self._parts.get(name, 0)
        while part and self._older:
            found = self._older.execute("SELECT before, told FROM parts WHERE id = ?", (part,)).fetchone()
            part = found[0]
            parts.append(found[1].split(b"\n"))
        return [self._unpack(line) for part in reversed(parts) for line in part]

    def _put_away(self) -> None:
        if self._older is None:
            self._older = _temporary("CREATE TABLE parts (id INTEGER PRIMARY KEY, before INTEGER, told BLOB)")
        for name, lines in self._latest.items():
            told = self._parts[name], b"\n".join(lines)
            added = self._older.execute("INSERT INTO parts VALUES (NULL, ?, ?)", told)
            self._parts[name] = added.lastrowid or 0
        self._latest, self._count = {}, 0


def _key(name: Any) -> bytes:
    return canonical(name if isinstance(name, tuple) else (name,))


def _temporary(table: str) -> sqlite3.Connection:
    """Opens a file of its own, of which half a megabyte is in memory."""
    connection = sqlite3.connect("", isolation_level=None)
    for sentence in ("PRAGMA cache_size = -512", "PRAGMA journal_mode = OFF", table):
        connection.execute(sentence)
    connection.execute("BEGIN")
    return connection
