"""How it ends: the rows that a closed loop makes, beside the recorded ones.

A running system has those in its tables. Of a recording they are what today's `evolve` makes of the recorded
facts; whether those are the rows that there were, their digest tells.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import Any

from choreo.chassis.service import End, Service
from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.catalog import FACT_OF_TYPE
from choreo.replay.engine.cases import case_of
from choreo.replay.engine.in_memory_service import InMemoryService, Taken
from choreo.replay.engine.row_origin import InMemoryServiceWithOrigins
from choreo.replay.engine.sandbox import watched
from choreo.replay.sources.by_key import ByKey, Key
from choreo.replay.sources.on_disk import ListsOnDisk
from choreo.replay.sources.records import Source
from choreo.replay.sources.rows import Digest, canonical, pack, plain, unpacking, values
from choreo.replay.verify.findings import Finding, Tally
from choreo.replay.verify.simulation import Difference, Origin, Simulation

_NO_END = End(())
Rows = dict[Any, Any]
"""By primary key."""


class Outcomes:
    """Compares rows key by key, as a simulation makes them."""

    def __init__(self, source: Source, simulation: Simulation) -> None:
        self.tally = Tally()
        self._source = source
        self._simulation = simulation
        self._tables: dict[tuple[str, str], ListsOnDisk[Sequence[Any]]] = {}
        """By service and the field of a mapping, the rows there are by key, where they can be had."""
        self._digests: dict[tuple[str, str], Digest] = {}
        """By service and field: of the rows that the recorded facts make."""
        self._broken: set[str] = set()
        """Services of which that cannot be told, as today's `evolve` raises."""

    async def read_rows(self) -> None:
        for name, in_memory in self._simulation.services.items():
            for mapping in in_memory.service.store.mappings:
                pages = self._source.rows(name, mapping.table) if self._source.cut.is_whole else None
                if pages is None:
                    return
                rows: ListsOnDisk[Sequence[Any]] = ListsOnDisk(pack, unpacking([*mapping.table.columns]))
                self._tables[name, mapping.field] = rows
                key = [column.name for column in mapping.table.columns].index(mapping.key)
                async for page in pages:
                    for row in page:
                        rows.add(str(row[key]), row)

    def add(self, key: Key) -> None:
        """Compares the rows of a key that was simulated just now, but for services that keep those of all."""
        for name, in_memory in self._simulation.services.items():
            if in_memory.service.consumes:
                self._compare(name, [key.name], lambda _: key)

    def finish(self, keys: ByKey) -> None:
        """Compares the rows of services that keep those of all keys, and of keys that no journal names."""
        unknown: dict[str, set[str]] = {name: set() for name in self._simulation.services}
        for (service, _), rows in self._tables.items():
            unknown[service].update(key for key in rows if key not in keys)
        for name, in_memory in self._simulation.services.items():
            all_of_it = () if in_memory.service.consumes else keys
            self._compare(name, [*all_of_it, *unknown[name]], keys.key)
            for mapping in in_memory.service.store.mappings:
                if not (self._simulation.torn or name in self._broken):
                    self._check_digest(name, mapping)

    def _compare(self, service: str, keys: Sequence[str], load: Callable[[str], Key]) -> None:
        """Compares the rows that there are in memory with the recorded ones of these keys."""
        simulation, in_memory = self._simulation, self._simulation.services[service]
        excluded, before = simulation.torn, None
        if not self._tables:
            before = _Folded(in_memory.service)
            others = {key for key in keys if (service, key) in simulation.origins} - simulation.torn
            self.tally.findings += [finding for key in others if (finding := before.take(load(key)))]
            excluded = excluded | before.broken
            if before.broken:
                self._broken.add(service)
        for mapping in in_memory.service.store.mappings:
            mine = dict(in_memory.memory.rows(mapping))
            self.tally.counts[f"{service} {mapping.table.name}"] += len(mine)
            if before is None:
                recorded = self._rows_there_are(service, mapping, keys)
            else:
                recorded = {name: row for name, row in mine.items() if _key(mapping, row) not in others}
                recorded |= before.in_memory.memory.rows(mapping)
                digest = self._digests.setdefault((service, mapping.field), Digest())
                for row in recorded.values():
                    digest.add(canonical(values(mapping.table, row)))
            _compare(_Table(service, mapping, in_memory, simulation), mine, recorded, excluded, self.tally)

    def _rows_there_are(self, service: str, mapping: TableMapping, keys: Sequence[str]) -> Rows:
        columns = [column.name for column in mapping.table.columns]
        told = chain.from_iterable(map(self._tables[service, mapping.field].of, keys))
        rows = [SimpleNamespace(**dict(zip(columns, row, strict=True))) for row in told]
        return {mapping.name_of(row): row for row in rows}

    def _check_digest(self, service: str, mapping: TableMapping) -> None:
        expected = self._source.digest(service, mapping.table)
        got = str(self._digests.get((service, mapping.field), Digest()))
        if expected not in (None, got):
            says = (
                f"today's evolve makes other rows of {mapping.table.name} of the recorded facts: a recording "
                "has only a digest, and `choreo verify --closed-loop` of the running system names them"
            )
            self.tally.findings.append(
                Finding("state", service, says, table=mapping.table.name, expected=expected, got=got)
            )


class _Folded:
    """A service's rows of some keys, of the recorded facts alone."""

    def __init__(self, service: Service[Any]) -> None:
        self.in_memory = InMemoryService(service)
        self.broken: set[str] = set()
        """Keys with facts that today's `evolve` cannot apply."""

    def take(self, key: Key) -> Finding | None:
        service, in_memory = self.in_memory.service, self.in_memory
        key.inputs(service.name)
        steps = {fact.sequence: fact for fact in key.decided_by(service.name)}
        heard = [entry for entry in key.entries.get(service.name, []) if entry.kind == "fact"]
        steps |= {entry.step: key.facts[entry.id] for entry in heard}
        for step in sorted(steps):
            event = steps[step].applied_as(step)
            state = service.store.from_memory(in_memory.memory, key.name, event.data)
            ran = watched(partial(service.decider.applied, state, event))
            if isinstance(error := ran.result, Exception):
                self.broken.add(key.name)
                says = f"how {key.name} ended cannot be told: today's evolve raises {error!r} at the recorded"
                return Finding("incomplete", service.name, f"{says} {event.type} {event.id}", key.name)
            trail = [(event, ran.result)]
            in_memory.keep(key.name, Taken(service, event, state, event.time, step - 1, trail))
        return None


class _Table:
    """Puts into words how a table's rows differ."""

    def __init__(
        self,
        service: str,
        mapping: TableMapping,
        in_memory: InMemoryServiceWithOrigins[Any],
        simulation: Simulation,
    ) -> None:
        self.service, self.mapping, self.in_memory, self.simulation = service, mapping, in_memory, simulation
        self.end = in_memory.service.ends.get(mapping.table.name, _NO_END)

    @property
    def name(self) -> str:
        return self.mapping.table.name

    def are_equal(self, one: Any, other: Any) -> bool:
        return one is other or values(self.mapping.table, one) == values(self.mapping.table, other)

    def differs(self, column: str, recorded: Any, mine: Any) -> Difference:
        """`column` is the first that differs; empty where a row is missing."""
        row = recorded if mine is None else mine
        key, name = _key(self.mapping, row), self.mapping.name_of(row)
        origin = self.simulation.origins.get((self.service, key)) or self._writer(name, column)
        expected, got = self.as_dict(column, recorded), self.as_dict(column, mine)
        return Difference(
            "state",
            self.service,
            self._says(row, column, recorded, mine),
            key,
            origin["event"] if origin else "",
            origin["type"] if origin else "",
            origin["at"] if origin else "",
            origin["time"] if origin else "",
            origin["handler"] if origin else "",
            self.name,
            column,
            expected,
            got,
            row=str(name),
            trace=str(getattr(row, self.end.traced_by, name)),
            origin=origin,
        )

    def _writer(self, name: Any, column: str) -> Origin | None:
        """Returns the fact that wrote the row last: as no decision differs, the row follows from it."""
        row_origin = self.in_memory.row_origins.get((self.mapping.field, name))
        if row_origin is None:
            return None
        id, type_ = row_origin.last(column)
        evolve = self.in_memory.service.decider.evolve_of(FACT_OF_TYPE[type_])
        handler = case_of(evolve, type_)
        return Origin(service=self.service, type=type_, event=str(id), at="", time="", handler=handler)

    def _says(self, row: Any, column: str, recorded: Any, mine: Any) -> str:
        if self.end.name is None:
            name = self.mapping.name_of(row)
            if recorded is None:
                return f"{self.name} has {name}, and had not"
            return f"{self.name} lacks {name}" if mine is None else f"{self.name} {name} has another {column}"
        name = self.end.name(row)
        if self.end.value is not None:
            before, after = (self.end.value(one) if one else "not there" for one in (recorded, mine))
            return f"{name} is {after}, and was {before}"
        if recorded is None:
            return f"{name} is new"
        return f"{name} is not told any more" if mine is None else f"{name} has another {column}"

    def as_dict(self, column: str, row: Any) -> dict[str, Any] | None:
        if row is None:
            return None
        columns = self.end.columns or ((column,) if column else ())
        return {name: plain(getattr(row, name)) for name in columns}


def _compare(table: _Table, mine: Rows, recorded: Rows, excluded_keys: Collection[str], tally: Tally) -> None:
    ends = table.end.columns
    for name in [*recorded, *(name for name in mine if name not in recorded)]:
        before, after = recorded.get(name), mine.get(name)
        key = _key(table.mapping, before or after)
        if key in excluded_keys or (before and after and table.are_equal(before, after)):
            continue
        column = _first(_columns(table) if before and after else (), before, after)
        end = _first(ends, before, after) if before and after else ""
        other_way = (table.service, key) in table.simulation.origins
        if ends and (end or not (before and after)):
            tally.counts[f"{table.service} {table.name} otherwise"] += 1
            tally.findings.append(table.differs(end, before, after))
        elif other_way:
            tally.counts["other rows otherwise"] += 1
        else:
            tally.findings.append(table.differs(column, before, after))


def _columns(table: _Table) -> Collection[str]:
    return [column.name for column in table.mapping.table.columns]


def _first(columns: Iterable[str], one: Any, other: Any) -> str:
    return next((column for column in columns if getattr(one, column) != getattr(other, column)), "")


def _key(mapping: TableMapping, row: Any) -> str:
    return str(getattr(row, mapping.key))
