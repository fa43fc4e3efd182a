"""The rows that a replay makes, held against the tables or the digests that were recorded of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Table

from choreo.chassis.database.tables import keys as keys_table
from choreo.chassis.service import Service
from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.cases import case_of, written_through
from choreo.replay.engine.in_memory_service import InMemoryService, Row
from choreo.replay.engine.walk import Walk, Write
from choreo.replay.sources.records import Source
from choreo.replay.sources.rows import Digest, canonical, name_as_text, name_in, plain, short, values
from choreo.replay.verify.findings import Finding, ServiceTally


@dataclass(frozen=True, slots=True)
class _Row:
    """As replay has made it."""

    key: str
    values: tuple[Any, ...]
    at: Row | None
    """None: it is in no mapped table."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A table as replay has made it."""

    table: Table
    rows: Mapping[Any, Any]
    """By primary key."""
    told: Callable[[Any, Any], _Row]
    """Is given a primary key and its row."""
    values: Callable[[Any, Any], Sequence[Any]]
    """Likewise, and returns the values alone."""

    def get(self, name: Any) -> _Row | None:
        row = self.rows.get(name)
        return None if row is None else self.told(name, row)


@dataclass(frozen=True, slots=True)
class _Differing:
    table: Table
    column: str
    """The first that differs."""
    live: Sequence[Any] | None
    mine: _Row | None


async def compare_rows(
    source: Source, in_memory: InMemoryService[Any], tally: ServiceTally, going_on: Callable[[], None]
) -> None:
    """Adds to the tally of one service what differs, where the source has everything.

    `going_on` is called now and then, as this may take long.
    """
    if not source.cut.is_whole or tally.sample < 1:
        return
    differing: list[_Differing] = []
    for made in _tables(in_memory):
        going_on()
        if (live := source.rows(tally.service, made.table)) is not None:
            met = tally.counts["rows"]
            differing += [
                other async for page in live for row in page if (other := _compare_row(tally, made, row))
            ]
            if tally.counts["rows"] - met < len(made.rows):
                differing += await _unmatched(source, tally.service, made)
            continue
        recorded = source.digest(tally.service, made.table)
        if recorded is None or tally.keys is not None:
            continue
        edited = list(_compare_edited(source, tally.service, made))
        differing += edited
        if not (edited or tally.excluded_keys):
            _compare_digest(tally, made, recorded)
    changed = [one for one in differing if one.mine is None or one.mine.key not in tally.excluded_keys]
    writers = await _writers(source, in_memory.service, changed, going_on)
    for one in differing:
        writer = writers.get(one.mine.at) if one.mine and one.mine.at else None
        _row_differs(in_memory.service, tally, one, writer)


def _compare_edited(source: Source, service: str, made: _Made) -> Iterator[_Differing]:
    """Yields those rows that did not follow from the steps when it was recorded, and do not today."""
    table = made.table
    recorded = source.cut.columns.get(service, {}).get(str(table.name), ())
    edited = {row.name for row in source.edited(service, table)} if recorded else set()
    named = ((name_as_text(name), name) for name in (made.rows if edited else ()))
    by_name = {text: made.get(name) for text, name in named if text in edited}
    for row in source.edited(service, table):
        mine = by_name.get(row.name)
        if row.values is None:
            if mine:
                yield _Differing(table, "", None, mine)
            continue
        was = dict(zip(recorded, row.values, strict=False))
        columns = [str(column.name) for column in table.columns]
        live = [was.get(column) for column in columns]
        is_ = [short(value) for value in mine.values] if mine else []
        if not mine:
            yield _Differing(table, "", live, None)
        elif other := next(
            (c for c, a, b in zip(columns, live, is_, strict=True) if c in was and a != b), ""
        ):
            yield _Differing(table, other, live, mine)


def _compare_digest(tally: ServiceTally, made: _Made, recorded: str) -> None:
    table, digest = made.table, Digest()
    for name, row in made.rows.items():
        digest.add(canonical(made.values(name, row)))
    tally.counts["tables"] += 1
    if str(digest) == recorded:
        return
    says = f"the rows of {table.name} in {tally.service} are not the recorded ones"
    if not tally.counts["digests"]:
        says += "; which row, column and event cannot be told: the recording has a digest of the table alone"
    tally.findings.append(
        Finding("state", tally.service, says, table=table.name, expected=recorded, got=str(digest))
    )


def _tables(in_memory: InMemoryService[Any]) -> Iterator[_Made]:
    """Yields every table that replay makes."""
    for mapping in in_memory.service.store.mappings:
        rows = in_memory.memory.rows(mapping)
        yield _Made(mapping.table, rows, partial(_told, mapping), partial(_values_of, mapping))
    steps = in_memory.sequences
    yield _Made(keys_table, steps, lambda *row: _Row(row[0], row, None), lambda *row: row)


def _values_of(mapping: TableMapping, _: Any, row: Any) -> Sequence[Any]:
    return values(mapping.table, row)


def _told(mapping: TableMapping, name: Any, row: Any) -> _Row:
    return _Row(str(getattr(row, mapping.key)), values(mapping.table, row), (mapping.field, name))


async def _unmatched(source: Source, service: str, made: _Made) -> list[_Differing]:
    """Returns the rows that the table lacks: it is read once more for that, as there seldom are any."""
    live = source.rows(service, made.table)
    assert live
    names = {name_in(made.table, row) async for page in live for row in page}
    lacking = [name for name in made.rows if name not in names]
    return [_Differing(made.table, "", None, made.get(name)) for name in lacking]


def _compare_row(tally: ServiceTally, made: _Made, live: Sequence[Any]) -> _Differing | None:
    table, mine = made.table, made.get(name_in(made.table, live))
    if mine is None:
        return _Differing(table, "", live, None)
    tally.counts["rows"] += 1
    if mine.values == tuple(live):
        return None
    compared = zip(table.columns, live, mine.values, strict=True)
    return _Differing(table, next(str(one.name) for one, was, is_ in compared if was != is_), live, mine)


@dataclass(slots=True)
class _Wrote:
    """The fact from which a row follows as it is today."""

    write: Write
    left_by: Event[Fact] | None = None
    """The last fact after it that names the row, and leaves all of it as it is."""
    left_at: str = ""


async def _writers(
    source: Source,
    service: Service[Any],
    differing: Sequence[_Differing],
    going_on: Callable[[], None],
) -> dict[Row, _Wrote]:
    """Returns what gave the differing columns their values; of a row that should not be, what made it.

    Rows seldom differ: for those that do, everything is replayed once more.
    """
    found: dict[Row, _Wrote] = {}
    columns = {one.mine.at: one.column for one in differing if one.mine and one.mine.at}
    if not columns:
        return found
    # What a key has one of, any fact of the key concerns: there, to leave it as it is says something only of
    # a fact that has the very value that is missing.
    single = {mapping.field for mapping in service.store.mappings if mapping.single}
    named = {str(row[1]): row for row in columns if row[0] not in single}
    missing = {
        (one.mine.key, one.column, str(plain(_value(one)))): one.mine.at
        for one in differing
        if one.mine and one.mine.at and one.column and one.mine.at[0] in single
    }
    walk = Walk(source, service, None, lambda _: going_on(), today=True, compare=False)
    async for ahead in walk.inputs():
        done = walk.take(ahead)
        if done is None:
            continue
        for event, _ in ahead.taken.trail:
            of_event = [write for write in done.writes if write.event is event]
            written = {(write.mapping.field, write.name): write for write in of_event}
            for at, write in written.items():
                if at in columns and _changes(write, columns[at]):
                    found[at] = _Wrote(write)
                elif at in found:
                    found[at].left_by = None
            for field, value in event.data.model_dump(mode="json").items():
                row = named.get(str(value)) or missing.get((event.key, field, str(value)))
                if row in found and row not in written:
                    evolve = service.decider.evolve_of(type(event.data))
                    found[row].left_by, found[row].left_at = event, case_of(evolve, event.type)
    return found


def _value(differing: _Differing) -> Any:
    """Returns the value of the column that differs, as it was."""
    assert differing.live is not None
    return differing.live[[column.name for column in differing.table.columns].index(differing.column)]


def _changes(write: Write, column: str) -> bool:
    """Tells whether it gave the column another value; without one, whether it made the row."""
    if write.old is None:
        return True
    return bool(column) and getattr(write.old, column) != getattr(write.row, column)


def _row_differs(
    service: Service[Any], tally: ServiceTally, differing: _Differing, writer: _Wrote | None
) -> None:
    table, column, live, mine = differing.table, differing.column, differing.live, differing.mine
    columns = [str(column.name) for column in table.columns]
    expected = None if live is None else dict(zip(columns, map(plain, live), strict=True))
    got = None if mine is None else dict(zip(columns, map(plain, mine.values), strict=True))
    key = mine.key if mine else _key_of(service, table, expected or {})
    if key in tally.excluded_keys:
        return
    named = expected or got or {}
    name = ", ".join(str(named[one.name]) for one in table.primary_key.columns)
    if table is keys_table:
        replayed, live_number = (got or {}).get("sequence", 0), (expected or {}).get("sequence", 0)
        says = (
            f"the journal of {tally.service} makes {replayed} steps of key {name}, and it has {live_number}"
        )
        tally.findings.append(
            Finding("incomplete", tally.service, says, key, table=table.name, expected=expected, got=got)
        )
        tally.excluded_keys.add(key)
        return
    if expected is None:
        says = f"{table.name} lacks {name}"
    elif got is None:
        says = f"{table.name} has {name}, which no event made"
    else:
        says = f"{table.name} {name} has another {column}"
        expected, got = {column: expected[column]}, {column: got[column]}
    event = writer.write.event if writer else None
    lines: tuple[str, ...] = ()
    if writer and event:
        evolve = service.decider.evolve_of(type(event.data))
        lines = written_through(evolve, writer.write.before, event, writer.write.row)
        says += f"; last written by {event.type} {event.id}"
    if writer and writer.left_by:
        event, lines = writer.left_by, (writer.left_at,)
        says += f"; {event.type} {event.id} is about it, and leaves it as it is"
    tally.findings.append(
        Finding(
            "state",
            tally.service,
            says,
            key,
            str(event.id) if event else "",
            event.type if event else "",
            handler=lines[-1] if lines else "",
            table=table.name,
            column=column,
            expected=expected,
            got=got,
            lines=lines,
        )
    )


def _key_of(service: Service[Any], table: Table, row: Mapping[str, Any]) -> str:
    column = {mapping.table.name: mapping.key for mapping in service.store.mappings}.get(table.name, "key")
    return str(row.get(column, ""))
