"""What a step made of rows, in digests that a recording can carry: enough to name what is otherwise today.

They are made by the code that recorded, of what it decides. So they say something of today's rows as long as
both decide the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

import orjson
from sqlalchemy import Table

from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.cases import case_taken, written_through
from choreo.replay.engine.in_memory_service import Put, Taken
from choreo.replay.sources.records import Broken, Values, Wrote
from choreo.replay.sources.rows import canonical, name_as_text, plain, short, values

_DIGEST_BYTES = 8

Place = tuple[int, str, str]
"""The number of a fact in its step, a table, a primary key as text."""


def wrote_in(taken: Taken[Any], puts: Sequence[Put[Any]]) -> Wrote:
    """Says what the last run of a step decided and wrote: `puts` is what `taken.puts` returns."""
    writes = []
    for (number, table, name), (mapping, old, row, _, _) in _by_place(taken, puts).items():
        told: Values = [short(value) for value in values(mapping.table, row)]
        if old is not None:
            columns = zip(_columns(mapping.table), values(mapping.table, old), told, strict=True)
            told = {column: value for column, was, value in columns if short(was) != value}
        writes.append([number, table, name, told])
    return Wrote(digest_of_facts(taken), digest_of_rows(puts), writes)


def digest_of_rows(puts: Sequence[Put[Any]]) -> str:
    """Hashes the rows that are not what they were, in any order."""
    return _digest(
        b"".join(sorted(canonical(values(put[0].table, put[2])) for put in puts if put[1] != put[2]))
    )


def digest_of_facts(taken: Taken[Any]) -> str:
    """Hashes what was decided; what was heard may have been of an older version then."""
    own = [event for event, _ in taken.trail if event.source == taken.service.name]
    return _digest(orjson.dumps([[event.id, event.data.model_dump(mode="json")] for event in own]))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _by_place(taken: Taken[Any], puts: Sequence[Put[Any]]) -> dict[Place, Put[Any]]:
    """Returns what was written and is another row, in the order of the facts."""
    numbers = {id(event): number for number, (event, _) in enumerate(taken.trail)}
    return {
        (numbers[id(put[3])], str(put[0].table.name), name_as_text(put[0].name_of(put[2]))): put
        for put in puts
        if put[1] != put[2]
    }


def _columns(table: Table) -> list[str]:
    return [str(column.name) for column in table.columns]


# -- what is otherwise -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Otherwise:
    """A row that a fact makes another one today."""

    event: Event[Fact]
    """The fact, heard or own."""
    lines: tuple[str, ...]
    """File and line of each own frame, from evolve to where the row is made; or of the case that does not."""
    table: str
    column: str
    """The first that is otherwise."""
    says: str
    recorded: Mapping[str, Any] | None
    today: Mapping[str, Any] | None


def first_otherwise(
    wrote: Wrote, taken: Taken[Any], puts: Sequence[Put[Any]], columns: Mapping[str, Sequence[str]]
) -> Otherwise | None:
    """Returns the first row that a step writes otherwise, or not any more, or did not.

    `columns` are those of new rows, by table. A column that one side does not know is not compared. Raises
    `Broken` where the digests are of another step.
    """
    mappings = {str(mapping.table.name): mapping for mapping in taken.service.store.mappings}
    recorded, today = _recorded(wrote, taken), _by_place(taken, puts)
    for place in sorted({*today, *recorded}):
        mapping = mappings.get(place[1])
        if mapping and (found := _otherwise(mapping, taken, place, recorded, today.get(place), columns)):
            return found
    return None


def _recorded(wrote: Wrote, taken: Taken[Any]) -> dict[Place, Values]:
    """Raises `Broken` where a stranger wrote it who knows the step less well."""
    told: dict[Place, Values] = {}
    try:
        for number, table, name, row in wrote.writes:
            if number not in range(len(taken.trail)) or not isinstance(row, Mapping | list):
                raise ValueError
            told[number, str(table), str(name)] = row
    except (TypeError, ValueError):
        raise Broken(f"What is recorded of the rows of {taken.service.name} is of other steps.") from None
    return told


def _otherwise(
    mapping: TableMapping,
    taken: Taken[Any],
    place: Place,
    recorded: Mapping[Place, Values],
    put: Put[Any] | None,
    columns: Mapping[str, Sequence[str]],
) -> Otherwise | None:
    number, table, name = place
    known = set(_columns(mapping.table)) & set(columns.get(table, ()))
    was = _by_name(recorded.get(place, {}), columns.get(table, ()))
    event, after = taken.trail[number]
    before = taken.trail[number - 1][1] if number else taken.state
    row = put[2] if put else _row(mapping, after, name)
    is_ = {} if row is None else dict(zip(_columns(mapping.table), values(mapping.table, row), strict=True))
    old = put[1] if put else row
    changed = {column for column in is_ if old is None or getattr(old, column) != getattr(row, column)}
    # What is a time in the first place differs with many a thing, and tells little.
    times = {column for column in known if isinstance(is_.get(column), datetime)}
    columns_known = [column for column in _columns(mapping.table) if column in known]
    for column in sorted(columns_known, key=lambda column: column in times):
        if column in was and (column not in is_ or was[column] != short(is_[column])):
            told = _lost(event, table, name, column, changed) if column in is_ else None
            says = told or f"{table} lacks {name}, which {event.type} {event.id} made"
        elif column in changed and column not in was:
            says = f"{table} {name} has another {column}: {event.type} {event.id} left it as it was"
            if not was and old is None:
                says = f"{table} has {name}, which {event.type} {event.id} did not make"
        else:
            continue
        evolve = taken.service.decider.evolve_of(type(event.data))
        return Otherwise(
            event,
            written_through(evolve, before, event, put[2]) if put else (case_taken(evolve, before, event),),
            table,
            column,
            says,
            {column: was[column]} if column in was else None,
            {column: plain(is_[column])} if column in is_ else None,
        )
    return None


def _lost(event: Event[Fact], table: str, name: str, column: str, changed: set[str]) -> str:
    fact = f"{event.type} {event.id}"
    if column in changed:
        return f"{table} {name} has another {column} after {fact}"
    return f"{table} {name} has another {column}: {fact} changed it, and leaves it as it is today"


def _by_name(told: Values, columns: Sequence[str]) -> Mapping[str, Any]:
    return told if isinstance(told, Mapping) else dict(zip(columns, told, strict=False))


def _row(mapping: TableMapping, state: Any, name: str) -> Any | None:
    """Finds a row in a state by its primary key as text."""
    held = getattr(state, mapping.field)
    rows = ([held] if held else []) if mapping.single else held.values()
    return next((row for row in rows if name_as_text(mapping.name_of(row)) == name), None)
