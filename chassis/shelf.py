"""State and tables: which rows a batch concerns, and which of them it changed."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from psycopg.rows import kwargs_row
from pydantic import BaseModel
from sqlalchemy import Table, Uuid

from chassis.db import Connection, array_type, insert, replace

S = TypeVar("S")


class Shelves(Protocol[S]):
    """A service's state as tables."""

    async def load(self, conn: Connection, wanted: "Mapping[str, Sequence[object]]") -> dict[str, S]: ...

    async def save(self, conn: Connection, before: Mapping[str, S], after: Mapping[str, S]) -> None: ...


@dataclass(frozen=True)
class Shelf:
    """One field of a state, and its table.

    The field is one row or None (`single`), or a mapping of rows by primary key. A row is loaded with its
    key where `with_key` (SQL) holds for it, and wherever an input names its primary key in an attribute
    called `named_by`.
    """

    field: str
    table: Table
    row: type[Any]
    key: str
    single: bool = False
    with_key: str | None = None
    named_by: str | None = None

    @cached_property
    def _columns(self) -> list[str]:
        if issubclass(self.row, BaseModel):
            return list(self.row.model_fields)
        return [field.name for field in fields(self.row)]

    @cached_property
    def _select(self) -> bytes:
        """Names are those of our own tables; nothing from outside gets into the text."""
        conditions = []
        if self.with_key is not None:
            array = array_type(self.table.columns[self.key])
            conditions.append(f"{self.key} = ANY(%(keys)b::{array}[]) AND {self.with_key}")
        if self.named_by is not None:
            name = self._primary_key[0]
            conditions.append(f"{name} = ANY(%(names)b::{array_type(self.table.columns[name])}[])")
        columns = ", ".join(self._columns)
        where = " OR ".join(f"({condition})" for condition in conditions)
        return f"/* load.{self.table.name} */ SELECT {columns} FROM {self.table.name} WHERE {where}".encode()

    @cached_property
    def _primary_key(self) -> list[str]:
        return [column.name for column in self.table.primary_key.columns]

    def name_of(self, row: Any) -> Any:
        """What a mapping of such rows is keyed by."""
        names = tuple(getattr(row, column) for column in self._primary_key)
        return names[0] if len(names) == 1 else names

    async def load(self, conn: Connection, wanted: Mapping[str, Sequence[object]]) -> list[Any]:
        if self.with_key is None and self.named_by is None:
            return []
        keys: list[Any] = list(wanted)
        if isinstance(self.table.columns[self.key].type, Uuid):
            keys = [uuid for key in keys if (uuid := _uuid(key))]
        names = []
        if self.named_by is not None:
            named = (
                getattr(content, self.named_by, None) for contents in wanted.values() for content in contents
            )
            names = [name for name in named if name is not None]
        if not keys and not names:
            return []
        async with conn.cursor(row_factory=kwargs_row(self.row)) as cursor:
            await cursor.execute(self._select, {"keys": keys, "names": names})
            return await cursor.fetchall()

    def differences(self, before: object, after: object) -> tuple[list[Any], list[Any]]:
        """The rows that are new, and those that are not what they were."""
        old, new = getattr(before, self.field), getattr(after, self.field)
        if old is new:
            return [], []
        if self.single:
            return ([new], []) if old is None else ([], [new])
        return (
            [row for name, row in new.items() if name not in old],
            [row for name, row in new.items() if name in old and old[name] is not row],
        )


@dataclass(frozen=True)
class ShelvesByKey(Generic[S]):
    """The usual case: every row belongs to one key, and a state is the rows of its key."""

    empty: Callable[[], S]
    shelves: tuple[Shelf, ...]

    async def load(self, conn: Connection, wanted: Mapping[str, Sequence[object]]) -> dict[str, S]:
        """The state of every wanted key, with the rows the inputs' contents concern."""
        found: dict[str, dict[str, Any]] = {key: {} for key in wanted}
        for shelf in self.shelves:
            for row in await shelf.load(conn, wanted):
                content = found.get(str(getattr(row, shelf.key)))
                if content is None:
                    continue
                if shelf.single:
                    content[shelf.field] = row
                else:
                    content.setdefault(shelf.field, {})[shelf.name_of(row)] = row
        return {key: dataclasses.replace(self.empty(), **content) for key, content in found.items()}  # type: ignore[type-var]

    async def save(self, conn: Connection, before: Mapping[str, S], after: Mapping[str, S]) -> None:
        await save(conn, self.shelves, before, after)


async def save(
    conn: Connection, shelves: Iterable[Shelf], before: Mapping[str, S], after: Mapping[str, S]
) -> None:
    """Writes every row that `after` has and `before` had not.

    A row that is new to its key but there already belongs to another key: the database refuses it.
    """
    for shelf in shelves:
        added, changed = [], []
        for key, state in after.items():
            new, other = shelf.differences(before[key], state)
            added += new
            changed += other
        await insert(conn, shelf.table, added)
        await replace(conn, shelf.table, changed)


def _uuid(key: str) -> UUID | None:
    try:
        return UUID(key)
    except ValueError:
        return None
