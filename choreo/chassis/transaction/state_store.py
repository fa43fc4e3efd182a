"""State and tables: which rows a batch concerns, and which of them it changed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property, lru_cache, partial
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Table, Uuid

from choreo.chassis.database.round_trip import Later, RoundTrip, Statement
from choreo.chassis.database.rows import array_type, insert, replace
from choreo.message.fact import text_of

S = TypeVar("S")


class Store(Protocol[S]):
    """A service's state as tables."""

    def load(self, trip: RoundTrip, wanted: "Mapping[str, Sequence[object]]") -> Later[dict[str, S]]: ...

    def save(self, trip: RoundTrip, before: Mapping[str, S], after: Mapping[str, S]) -> None: ...


class ReplayableStore(Store[S], Protocol[S]):
    """The same rows can be kept in memory instead."""

    @property
    def mappings(self) -> "tuple[TableMapping, ...]": ...

    def from_memory(self, memory: "Memory", key: str, content: object) -> S:
        """What `load` gives, from rows in memory."""
        ...


@dataclass(frozen=True)
class TableMapping:
    """One field of a state, and its table.

    The field is one row or None (`single`), or a mapping of rows by primary key. A row is loaded with its
    key if its columns have the values that `loaded_with_key` names, and wherever an input names its primary
    key in an attribute called `loaded_by_id`.
    """

    field: str
    table: Table
    row: type[Any]
    key: str
    single: bool = False
    loaded_with_key: Mapping[str, str] | None = None
    loaded_by_id: str | None = None

    @cached_property
    def columns(self) -> list[str]:
        """Those that a row is made of."""
        if issubclass(self.row, BaseModel):
            return list(self.row.model_fields)
        return [field.name for field in fields(self.row)]

    @cached_property
    def _select(self) -> Statement:
        """Names are those of our own tables; nothing from outside gets into the text."""
        conditions = []
        if self.loaded_with_key is not None:
            array = array_type(self.table.columns[self.key])
            conditions.append(
                " AND ".join(
                    [
                        f"{self.key} = ANY($1::{array}[])",
                        *(f"{column} = '{value}'" for column, value in self.loaded_with_key.items()),
                    ]
                )
            )
        if self.loaded_by_id is not None:
            name = self._primary_key[0]
            number = 1 if self.loaded_with_key is None else 2
            conditions.append(f"{name} = ANY(${number}::{array_type(self.table.columns[name])}[])")
        columns = ", ".join(self.columns)
        where = " OR ".join(f"({condition})" for condition in conditions)
        return Statement(
            f"/* load.{self.table.name} */ SELECT {columns} FROM {self.table.name} WHERE {where}"
        )

    @cached_property
    def _primary_key(self) -> list[str]:
        return [column.name for column in self.table.primary_key.columns]

    @cached_property
    def name_of(self) -> Callable[[Any], Any]:
        """What a mapping of such rows is keyed by: of a row, its primary key; a tuple where that is several
        columns.
        """
        return attrgetter(*self._primary_key)

    def own(self, row: Any) -> Any:
        """The same row as this mapping's class has it, where another import of that class made it."""
        if isinstance(row, self.row):
            return row
        return self.row(**{name: getattr(row, name) for name in self.columns})

    def load(self, trip: RoundTrip, wanted: Mapping[str, Sequence[object]]) -> list[Any]:
        """The rows, there once it is sent."""
        values = []
        if self.loaded_with_key is not None:
            values.append(self._own_keys(wanted))
        if self.loaded_by_id is not None:
            values.append(list(_named(self.loaded_by_id, wanted)))
        return trip.add(self._select, *values, row=self.row_of) if any(values) else []

    def _own_keys(self, keys: Iterable[str]) -> list[Any]:
        """As the table has them; a key that cannot be one has no rows there."""
        if self._key_is_uuid:
            return [uuid for key in keys if (uuid := _uuid(key))]
        return list(keys)

    @cached_property
    def _key_is_uuid(self) -> bool:
        return isinstance(self.table.columns[self.key].type, Uuid)

    @cached_property
    def row_of(self) -> Callable[..., Any]:
        """Makes a row of its columns' values."""
        if issubclass(self.row, BaseModel) or any(field.kw_only for field in fields(self.row)):
            return lambda *values: self.row(**dict(zip(self.columns, values, strict=True)))
        return self.row

    def differences(self, before: object, after: object) -> tuple[Sequence[Any], Sequence[tuple[Any, Any]]]:
        """The rows that are new, and those that are not what they were, each with what it was before."""
        old, new = getattr(before, self.field), getattr(after, self.field)
        if old is new:
            return (), ()
        if self.single:
            return ([new], ()) if old is None else ((), [(old, new)])
        added: list[Any] = []
        changed: list[tuple[Any, Any]] = []
        for name, row in new.items():
            was = old.get(name)
            if was is None:
                added.append(row)
            elif was is not row:
                changed.append((was, row))
        return added, changed


@dataclass(frozen=True)
class StateStore(Generic[S]):
    """The usual case: every row belongs to one key, and a state is the rows of its key."""

    empty: Callable[..., S]
    mappings: tuple[TableMapping, ...]

    def load(self, trip: RoundTrip, wanted: Mapping[str, Sequence[object]]) -> Later[dict[str, S]]:
        """The state of every wanted key, with the rows the inputs' contents concern."""
        rows = [(mapping, mapping.load(trip, wanted)) for mapping in self.mappings]
        return partial(self._states, wanted, rows)

    def _states(
        self, keys: Iterable[str], loaded: Iterable[tuple[TableMapping, Iterable[Any]]]
    ) -> dict[str, S]:
        found: dict[str, dict[str, Any]] = {key: {} for key in keys}
        for mapping, rows in loaded:
            for row in rows:
                content = found.get(text_of(getattr(row, mapping.key)))
                if content is None:
                    continue
                if mapping.single:
                    content[mapping.field] = row
                else:
                    content.setdefault(mapping.field, {})[mapping.name_of(row)] = row
        return {key: self.empty(**content) for key, content in found.items()}

    def save(self, trip: RoundTrip, before: Mapping[str, S], after: Mapping[str, S]) -> None:
        save(trip, self.mappings, before, after)

    def from_memory(self, memory: "Memory", key: str, content: object) -> S:
        found: dict[str, Any] = {}
        kind: Any = type(content)
        for mapping in self.mappings:
            rows = memory.with_key(mapping, key)
            if mapping.single:
                found[mapping.field] = next(iter(rows.values()), None)
                continue
            if mapping.loaded_by_id is not None:
                name = getattr(content, mapping.loaded_by_id) if _has(kind, mapping.loaded_by_id) else None
                row = memory.by_id(mapping, name) if name is not None and name not in rows else None
                if row is not None and text_of(getattr(row, mapping.key)) == key:
                    rows[name] = row
            found[mapping.field] = rows
        return self.empty(**found)


@cache
def _has(content: type[Any], name: str) -> bool:
    """Asked of the type, once: a fact takes long to say that it lacks an attribute."""
    fields: Any = getattr(content, "model_fields", None) or getattr(content, "__dataclass_fields__", ())
    return name in fields or hasattr(content, name)


def save(
    trip: RoundTrip, mappings: Iterable[TableMapping], before: Mapping[str, S], after: Mapping[str, S]
) -> None:
    """Writes every row that `after` has and `before` had not.

    A row that is new to its key but there already belongs to another key: the database rejects it.
    """
    for mapping in mappings:
        added: list[Any] = []
        changed: list[Any] = []
        for key, state in after.items():
            new, other = mapping.differences(before[key], state)
            added += new
            changed += [row for _, row in other]
        insert(trip, mapping.table, added)
        replace(trip, mapping.table, changed)


class Memory:
    """Rows without a database, found in the same ways."""

    def __init__(
        self,
        mappings: Iterable[TableMapping],
        rows: Callable[[TableMapping], MutableMapping[Any, Any]] = lambda mapping: {},
    ) -> None:
        """`rows` makes what those of one table are kept in, by primary key."""
        self._rows = {mapping.field: rows(mapping) for mapping in mappings}
        self._with_key: dict[str, dict[str, dict[Any, Any]]] = {mapping.field: {} for mapping in mappings}
        self._having: dict[tuple[str, str], dict[Any, dict[Any, Any]]] = {}

    def put(self, mapping: TableMapping, row: Any) -> None:
        """Over the one with the same primary key."""
        name = mapping.name_of(row)
        self._rows[mapping.field][name] = row
        for (field, column), index in self._having.items():
            if field == mapping.field:
                index.setdefault(getattr(row, column), {})[name] = row
        if mapping.loaded_with_key is not None:
            of_key = self._with_key[mapping.field].setdefault(text_of(getattr(row, mapping.key)), {})
            if all(getattr(row, column) == value for column, value in mapping.loaded_with_key.items()):
                of_key[name] = row
            else:
                of_key.pop(name, None)

    def rows(self, mapping: TableMapping) -> Mapping[Any, Any]:
        """All of them, by primary key."""
        return self._rows[mapping.field]

    def by_id(self, mapping: TableMapping, name: Any) -> Any | None:
        return self._rows[mapping.field].get(name)

    def with_key(self, mapping: TableMapping, key: str) -> dict[Any, Any]:
        """Those that are loaded with their key. A copy."""
        return dict(self._with_key[mapping.field].get(key, ()))

    def having(self, mapping: TableMapping, column: str, value: Any) -> Iterable[Any]:
        """The rows with this value in a column that never changes."""
        at = mapping.field, column
        if at not in self._having:
            index = self._having[at] = {}
            for name, row in self._rows[mapping.field].items():
                index.setdefault(getattr(row, column), {})[name] = row
        return self._having[at].get(value, {}).values()


def _named(attribute: str, wanted: Mapping[str, Sequence[object]]) -> Iterator[Any]:
    """Primary keys that the inputs name."""
    for contents in wanted.values():
        for content in contents:
            kind: Any = type(content)
            if _has(kind, attribute):
                name = getattr(content, attribute)
                if name is not None:
                    yield name


@lru_cache(maxsize=1 << 12)
def _uuid(key: str) -> UUID | None:
    """Every mapping of a service asks for the same."""
    try:
        return UUID(key)
    except ValueError:
        return None
