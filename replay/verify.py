"""Holds what was recorded against today's code: every step, every row, every record; docs/replay.md says how.

What a service decided is compared with its topic by key and sequence. After its first divergence a key is set
aside in that service, for what follows only follows from it; all others go on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from zlib import crc32

import orjson
from sqlalchemy import Table

from chassis.positions import Place
from chassis.service import Service
from chassis.shelf import Shelf
from chassis.step import Step
from chassis.tables import keys as keys_table
from events.codec import Undecodable, UnknownType, decode
from events.envelope import Event
from events.fact import Fact
from replay.collector import no_collector
from replay.findings import Finding, Kind
from replay.places import decided_at, raised_at
from replay.records import Broken, Cut, Item, JournalEntry, Source, TopicRecord, Unpublished, lacking
from replay.rows import Digest, canonical, name_in, plain, values
from replay.shadow import Row, Shadow, Taken
from replay.walk import Walk, Write

_ALWAYS = "user"
"""Whether a login is free depends on other keys: of this service a sample takes all."""


@dataclass(frozen=True, slots=True)
class Lying:
    """An event on a service's own topic, or in its outbox."""

    event: Event[Fact]
    at: str
    settled: bool
    """It was published before the journal was read."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A fact that today's code decides."""

    event: Event[Fact]
    entry: JournalEntry
    taken: Taken[Any]


@dataclass(slots=True)
class Last:
    """The latest input of a key."""

    entry: JournalEntry
    taken: Taken[Any]


@dataclass
class Tally:
    """What a service's verification has looked at."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


async def verify(
    source: Source,
    services: Mapping[str, Service[Any]],
    *,
    sample: float = 1.0,
    progress: Callable[[int], None] | None = None,
) -> Tally:
    """Of these services, whose journals must be in the source. `sample` is a share of the keys."""
    cut = source.cut
    verifiers = {name: _Verifier(service, cut, sample) for name, service in services.items()}
    log = _Log(cut, verifiers)
    whole = Tally()
    for name, verifier in verifiers.items():
        verifier.lacks(await lacking(source, name))
    read = 0
    broken = ""
    try:
        with no_collector():
            async for batch in source.batches():
                log.take(batch)
                read += len(batch)
                if progress:
                    progress(read)
    except Broken as error:
        broken = str(error)
    whole.findings += log.finish(broken)
    for verifier in verifiers.values():
        if not broken:
            verifier.finish(log.gaps_of(verifier.name))
            await _compare_rows(source, verifier)
        whole.findings += verifier.findings
        whole.counts.update({f"{verifier.name} {what}": n for what, n in verifier.counts.items()})
    whole.findings.sort(key=lambda finding: finding.time)
    whole.counts["items"] = read
    return whole


class _Log:
    """Hands every item to whom it concerns, and sees that no offset is missing."""

    def __init__(self, cut: Cut, verifiers: Mapping[str, "_Verifier"]) -> None:
        self._cut = cut
        self._verifiers = verifiers
        self._next: dict[Place, int] = dict.fromkeys(cut.spans, 0)
        self._settled = {place: span.settled for place, span in cut.spans.items()}
        self._owners = {topic: verifiers.get(service) for topic, service in cut.service_of.items()}
        self._hearers: dict[str, list[_Verifier]] = {
            topic: [verifier for verifier in verifiers.values() if verifier.hears_from(service)]
            for topic, service in cut.service_of.items()
        }
        self.findings: list[Finding] = []

    def take(self, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item, TopicRecord):
                self._take_record(item)
            elif isinstance(item, JournalEntry):
                if verifier := self._verifiers.get(item.service):
                    verifier.take(item)
            elif verifier := self._verifiers.get(item.service):
                verifier.take_unpublished(item)

    def _take_record(self, record: TopicRecord) -> None:
        place = record.topic, record.partition
        expected = self._next.get(place)
        if expected is None:
            return
        if record.offset != expected and (self._cut.is_whole or record.offset < expected):
            self._gap(record.topic, record.partition, expected, record.offset)
        self._next[place] = record.offset + 1
        owner, hearers = self._owners[record.topic], self._hearers[record.topic]
        if owner is None and not hearers:
            return
        event: Event[Fact] | None = None
        error = ""
        try:
            event = decode(record.record)
        except (UnknownType, Undecodable) as undecodable:
            error = str(undecodable)
        if event is not None:
            for hearer in hearers:
                if type(event.data) in hearer.hears:
                    hearer.hold(record, event)
        if owner is not None:
            if event is None:
                owner.alien(record, error)
            else:
                owner.lies(Lying(event, record.at, record.offset < self._settled[place]), record.record.value)

    def finish(self, broken: str) -> list[Finding]:
        if broken:
            return [*self.findings, Finding("incomplete", "", broken)]
        if self._cut.is_whole:
            for (topic, partition), span in self._cut.spans.items():
                if self._next[topic, partition] < span.end:
                    self._gap(topic, partition, self._next[topic, partition], span.end)
        return self.findings

    def gaps_of(self, service: str) -> bool:
        return any(finding.service == service for finding in self.findings)

    def _gap(self, topic: str, partition: int, expected: int, found: int) -> None:
        service = self._cut.service_of[topic]
        if found < expected:
            says = (
                f"{topic}[{partition}] has offset {found} after offset {expected - 1}: records changed places"
            )
        else:
            says = f"{topic}[{partition}] lacks offsets {expected} to {found - 1}"
        self.findings.append(
            Finding("incomplete", service, says, at=f"{topic}[{partition}]@{min(expected, found)}")
        )


class _Verifier:
    """One service."""

    def __init__(self, service: Service[Any], cut: Cut, sample: float) -> None:
        self.name = service.name
        self.service = service
        self.shadow = Shadow(service)
        self.hears = frozenset(service.hears)
        self.aside: set[str] = set()
        """Keys of which a divergence was found."""
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self._cut = cut
        self._sample = 1.0 if service.name == _ALWAYS else sample
        self._held: dict[tuple[str | None, int | None, int | None], Event[Fact]] = {}
        """Heard events that no entry has asked for yet, by place."""
        self._decided: dict[tuple[str, int], Decided] = {}
        """By key and sequence: what is not found on the topic yet."""
        self._lying: dict[tuple[str, int], Lying] = {}
        """By key and sequence: what is not decided yet."""
        self._matched: set[int] = set()
        """Hashes of what was found on the topic: whatever comes again is a repeat."""
        self._highest: dict[str, int] = {}
        self._last: dict[str, Last] = {}
        self._refuted: dict[str, JournalEntry] = {}
        """By key: the entry that says that today's code gives other facts than were recorded before it."""

    def lacks(self, keys: Mapping[str, str]) -> None:
        for key in filter(self._concerns, keys):
            self._diverges(Finding("incomplete", self.name, keys[key], key))

    def hears_from(self, other: str) -> bool:
        return any(fact.__module__ == f"events.{other}" for fact in self.hears)

    # -- the topic -----------------------------------------------------------------------------

    def hold(self, record: TopicRecord, event: Event[Fact]) -> None:
        if self._concerns(event.key):
            self._held[record.topic, record.partition, record.offset] = event

    def lies(self, lying: Lying, value: bytes | None) -> None:
        event = lying.event
        key = event.key
        if not self._concerns(key):
            return
        self.counts["records"] += 1
        mark = hash((event.id, event.sequence, value))
        if mark in self._matched:
            self.counts["repeated records"] += 1
            return
        at = key, event.sequence
        if at in self._lying or event.sequence < self._highest.get(key, 0):
            self._misplaced(lying)
            return
        self._highest[key] = event.sequence
        self._matched.add(mark)
        decided = self._decided.pop(at, None)
        if decided is None:
            self._lying[at] = lying
        else:
            self._compare(decided, lying)

    def take_unpublished(self, item: Unpublished) -> None:
        try:
            event = decode(item.record)
        except (UnknownType, Undecodable) as error:
            self.findings.append(
                Finding("closure", self.name, f"its outbox holds what nobody decided: {error}")
            )
            return
        if self._concerns(event.key) and (event.key, event.sequence) in self._decided:
            decided = self._decided.pop((event.key, event.sequence))
            self._compare(decided, Lying(event, "the outbox", settled=False))

    def alien(self, record: TopicRecord, error: str) -> None:
        self.findings.append(
            Finding("closure", self.name, f"{record.at} was decided by nobody: {error}", at=record.at)
        )

    def _misplaced(self, lying: Lying) -> None:
        event = lying.event
        says = (
            f"{lying.at} is no decision of {self.name} at this place: {event.type} {event.id} has the number "
            f"{event.sequence} of its key, and the topic already has {self._highest[event.key]}"
        )
        self._diverges(_of_lying("closure", self.name, says, lying))

    # -- the journal ---------------------------------------------------------------------------

    def take(self, entry: JournalEntry) -> None:
        key = entry.key
        if not self._concerns(key):
            return
        self.counts["inputs"] += 1
        event: Event[Fact] | None = None
        if entry.kind == "fact":
            event = self._held.pop((entry.topic, entry.partition, entry.offset), None)
            if entry.outcome != "applied":
                self.counts[entry.outcome] += 1
                return
            if event is None or event.id != entry.id:
                says = f"what {self.name} heard at {_at(entry)} is not there: {entry.type} {entry.id}"
                self._diverges(_of_entry("incomplete", entry, says))
                return
        try:
            command = self.shadow.command(entry.type, entry.command or {}) if event is None else None
        except (LookupError, ValueError) as error:
            says = f"today's code knows no such command: {entry.type} {entry.id}: {error}"
            self._diverges(_of_entry("step", entry, says))
            return
        input = event or command
        assert input is not None
        recorded = entry.step - (1 if event else 0)
        if self._cut.reduced:
            self.shadow.skip(key, recorded)
        taken = self.shadow.take(key, input, entry.now)
        if taken.sequence != recorded:
            self._refuted[key] = entry
            self.aside.add(key)
            return
        try:
            step = taken.run()
        except Exception as error:
            says = f"{entry.type} {entry.id} raises {type(error).__name__}: {error}"
            handler = raised_at(error) or ""
            self._diverges(_of_entry("step", entry, says, handler, got=repr(error)))
            return
        self._keep(entry, taken, step)

    def _keep(self, entry: JournalEntry, taken: Taken[Any], step: Step[Any]) -> None:
        key = entry.key
        self.counts["steps"] += 1
        self.counts["decisions"] += len(step.events)
        self._last[key] = Last(entry, taken)
        if entry.refusal is not None or step.refusal is not None:
            refusal = _refusal(step)
            if refusal != entry.refusal:
                says = f"{entry.type} {entry.id} is answered differently"
                place = decided_at(taken, None) or ""
                self._diverges(_of_entry("step", entry, says, place, expected=entry.refusal, got=refusal))
                return
        if entry.outcome == "refused":
            return
        self.shadow.keep(key, taken)
        for event in step.events:
            decided = Decided(event, entry, taken)
            lying = self._lying.pop((key, event.sequence), None)
            if lying is None:
                self._decided[key, event.sequence] = decided
            elif not self._compare(decided, lying):
                return

    def _compare(self, decided: Decided, lying: Lying) -> bool:
        if decided.event.key in self.aside or _same(decided.event, lying.event):
            return True
        self._differs(decided, lying)
        return False

    def _differs(self, decided: Decided, lying: Lying) -> None:
        entry = decided.entry
        says = f"{entry.type} {entry.id} leads to another {lying.event.type} than the one at {lying.at}"
        if decided.event.type != lying.event.type:
            says = (
                f"{entry.type} {entry.id} leads to {decided.event.type}, and not to the {lying.event.type} "
                f"at {lying.at}"
            )
        handler = decided_at(decided.taken, decided.event.data) or ""
        expected, got = _told(lying.event), _told(decided.event)
        self._diverges(_of_entry("step", entry, says, handler, expected, got, decided.taken))

    # -- the end -------------------------------------------------------------------------------

    def finish(self, gaps: bool) -> None:
        """Settles what could not be told before everything was read. `gaps`: its topic has some."""
        for key, entry in self._refuted.items():
            self._refute(key, entry)
        for (key, sequence), lying in sorted(self._lying.items(), key=lambda found: found[0][1]):
            if key not in self.aside and (lying.settled or sequence <= self.shadow.sequences.get(key, 0)):
                self._undecided(lying)
        for (key, _), decided in sorted(self._decided.items(), key=lambda found: found[0][1]):
            if key not in self.aside:
                says = (
                    f"{decided.entry.type} {decided.entry.id} leads to {decided.event.type} "
                    f"{decided.event.id}, which is on no topic and in no outbox"
                )
                handler = decided_at(decided.taken, decided.event.data) or ""
                self._diverges(
                    _of_entry(
                        "incomplete" if gaps else "closure",
                        decided.entry,
                        says,
                        handler,
                        got=_told(decided.event),
                        taken=decided.taken,
                    )
                )

    def _refute(self, key: str, entry: JournalEntry) -> None:
        """The entry's number says that the one before it, or some entry that is missing, gave other facts."""
        number = self.shadow.sequences.get(key, 0)
        recorded = entry.step - (1 if entry.kind == "fact" else 0)
        last = self._last.get(key)
        if last is not None:
            for sequence in range(last.taken.sequence + 1, max(number, recorded) + 1):
                lying, decided = self._lying.get((key, sequence)), self._decided.get((key, sequence))
                if lying and lying.event.time == last.entry.now:
                    self._less(last, lying)
                    return
                if decided and number > recorded:
                    says = f"{last.entry.type} {last.entry.id} leads to a {decided.event.type} more"
                    handler = decided_at(last.taken, decided.event.data) or ""
                    self.findings.append(
                        _of_entry(
                            "step", last.entry, says, handler, got=_told(decided.event), taken=last.taken
                        )
                    )
                    return
        says = f"the journal of {self.name} lacks what made steps {number + 1} to {recorded} of key {key}"
        self.findings.append(_of_entry("incomplete", entry, says))

    def _less(self, last: Last, lying: Lying) -> None:
        entry = last.entry
        says = f"{entry.type} {entry.id} does not lead to the {lying.event.type} at {lying.at}"
        place = decided_at(last.taken, None) or ""
        self.findings.append(
            _of_entry("step", entry, says, place, expected=_told(lying.event), taken=last.taken)
        )

    def _undecided(self, lying: Lying) -> None:
        event = lying.event
        last = self._last.get(event.key)
        self.aside.add(event.key)
        if last and event.sequence > last.taken.sequence and event.time == last.entry.now:
            self._less(last, lying)
            return
        journaled = self.counts["inputs"] > 0
        says = (
            f"{event.type} {event.id} at {lying.at} was decided by nobody"
            if journaled
            else f"the journal of {self.name} is missing: {event.type} {event.id} at {lying.at} has no cause"
        )
        kind: Kind = "closure" if journaled else "incomplete"
        self.findings.append(_of_lying(kind, self.name, says, lying))

    def _concerns(self, key: str) -> bool:
        if key in self.aside:
            return False
        return self._sample >= 1 or crc32(key.encode()) < self._sample * 2**32

    def _diverges(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.aside.add(finding.key)


# -- rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """As replay has made it."""

    key: str
    values: tuple[Any, ...]
    at: Row | None
    """None: it is on no shelf."""


@dataclass(frozen=True, slots=True)
class _Differing:
    table: Table
    column: str
    """The first that differs."""
    live: Sequence[Any] | None
    mine: _Row | None


async def _compare_rows(source: Source, verifier: _Verifier) -> None:
    if not source.cut.is_whole or verifier._sample < 1:
        return
    differing: list[_Differing] = []
    for table, rows in _tables(verifier):
        live = source.rows(verifier.name, table)
        if live is not None:
            left = dict(rows)
            async for page in live:
                differing += [found for row in page if (found := _compare_row(verifier, table, left, row))]
            differing += [_Differing(table, "", None, row) for row in left.values()]
            continue
        recorded = source.digest(verifier.name, table)
        if recorded is not None and not verifier.aside:
            digest = Digest()
            for _, mine in rows:
                digest.add(canonical(mine.values))
            verifier.counts["tables"] += 1
            if str(digest) != recorded:
                says = f"the rows of {table.name} in {verifier.name} are not the recorded ones"
                verifier.findings.append(
                    Finding(
                        "state", verifier.name, says, table=table.name, expected=recorded, got=str(digest)
                    )
                )
    writers = await _writers(source, verifier, differing)
    for one in differing:
        _row_differs(verifier, one, writers.get(one.mine.at) if one.mine and one.mine.at else None)


def _tables(verifier: _Verifier) -> Iterator[tuple[Table, Iterable[tuple[Any, _Row]]]]:
    """Every table that replay makes, with its rows by primary key."""
    shadow = verifier.shadow
    for shelf in shadow.service.shelves.shelves:
        yield shelf.table, _on(shelf, shadow)
    keys = shadow.sequences.items()
    yield keys_table, ((key, _Row(key, (key, number), None)) for key, number in keys)


def _on(shelf: Shelf, shadow: Shadow[Any]) -> Iterator[tuple[Any, _Row]]:
    for name, row in shadow.memory.rows(shelf).items():
        yield name, _Row(str(getattr(row, shelf.key)), values(shelf.table, row), (shelf.field, name))


def _compare_row(
    verifier: _Verifier, table: Table, rows: dict[Any, _Row], live: Sequence[Any]
) -> _Differing | None:
    mine = rows.pop(name_in(table, live), None)
    if mine is None:
        return _Differing(table, "", live, None)
    verifier.counts["rows"] += 1
    if mine.values == tuple(live):
        return None
    told = zip(table.columns, live, mine.values, strict=True)
    return _Differing(table, next(str(one.name) for one, was, is_ in told if was != is_), live, mine)


async def _writers(source: Source, verifier: _Verifier, differing: Sequence[_Differing]) -> dict[Row, Write]:
    """What gave the differing columns their values; of a row that should not be, what made it.

    Rows seldom differ: for those that do, everything is replayed once more.
    """
    found: dict[Row, Write] = {}
    columns = {
        one.mine.at: one.column
        for one in differing
        if one.mine and one.mine.at and one.mine.key not in verifier.aside
    }
    if not columns:
        return found
    walk = Walk(source, verifier.service)
    async for ahead in walk.inputs():
        done = walk.take(ahead)
        for write in done.writes if done else ():
            at = write.shelf.field, write.name
            if at in columns and _changes(write, columns[at]):
                found[at] = write
    return found


def _changes(write: Write, column: str) -> bool:
    """Whether it gave the column another value; without one, whether it made the row."""
    if write.old is None:
        return True
    return bool(column) and getattr(write.old, column) != getattr(write.row, column)


def _row_differs(verifier: _Verifier, differing: _Differing, writer: Write | None) -> None:
    table, column, live, mine = differing.table, differing.column, differing.live, differing.mine
    columns = [str(told.name) for told in table.columns]
    expected = None if live is None else dict(zip(columns, map(plain, live), strict=True))
    got = None if mine is None else dict(zip(columns, map(plain, mine.values), strict=True))
    key = mine.key if mine else _key_of(verifier, table, expected or {})
    if key in verifier.aside:
        return
    named = expected or got or {}
    name = ", ".join(str(named[told.name]) for told in table.primary_key.columns)
    if table is keys_table:
        replayed, live_number = (got or {}).get("sequence", 0), (expected or {}).get("sequence", 0)
        says = (
            f"the journal of {verifier.name} makes {replayed} steps of key {name}, and it has {live_number}"
        )
        verifier.findings.append(
            Finding("incomplete", verifier.name, says, key, table=table.name, expected=expected, got=got)
        )
        verifier.aside.add(key)
        return
    if expected is None:
        says = f"{table.name} lacks {name}"
    elif got is None:
        says = f"{table.name} has {name}, which no event made"
    else:
        says = f"{table.name} {name} has another {column}"
        expected, got = {column: expected[column]}, {column: got[column]}
    if writer:
        says += f"; last written by {writer.event.type} {writer.event.id}"
    verifier.findings.append(
        Finding(
            "state",
            verifier.name,
            says,
            key,
            str(writer.event.id) if writer else "",
            writer.event.type if writer else "",
            handler=writer.case if writer else "",
            table=table.name,
            column=column,
            expected=expected,
            got=got,
        )
    )


def _key_of(verifier: _Verifier, table: Table, row: Mapping[str, Any]) -> str:
    column = {shelf.table.name: shelf.key for shelf in verifier.service.shelves.shelves}.get(
        table.name, "key"
    )
    return str(row.get(column, ""))


# -- words -------------------------------------------------------------------------------------------


def _same(one: Event[Fact], other: Event[Fact]) -> bool:
    """Byte for byte the same record, however many versions ago it was written."""
    return (
        one.id == other.id
        and one.time == other.time
        and one.data == other.data
        and one.causation_id == other.causation_id
        and one.correlation_id == other.correlation_id
        and one.trace_id == other.trace_id
    )


def _told(event: Event[Fact]) -> dict[str, Any]:
    return {
        "type": event.type,
        "id": str(event.id),
        "key": event.key,
        "time": plain(event.time),
        "cause": event.causation_id and str(event.causation_id),
        "flow": str(event.correlation_id),
        "data": event.data.model_dump(mode="json"),
    }


def _refusal(step: Step[Any]) -> dict[str, Any] | None:
    """As the journal has it."""
    if step.refusal is None:
        return None
    told: dict[str, Any] = orjson.loads(
        orjson.dumps({"type": type(step.refusal).__name__, **step.refusal.numbers})
    )
    return told


def _at(entry: JournalEntry) -> str:
    return "" if entry.topic is None else f"{entry.topic}[{entry.partition}]@{entry.offset}"


def _of_lying(kind: Kind, service: str, says: str, lying: Lying) -> Finding:
    event = lying.event
    return Finding(
        kind,
        service,
        says,
        event.key,
        str(event.id),
        event.type,
        lying.at,
        plain(event.time),
        expected=_told(event),
    )


def _of_entry(
    kind: Any,
    entry: JournalEntry,
    says: str,
    handler: str = "",
    expected: Any = None,
    got: Any = None,
    taken: Taken[Any] | None = None,
) -> Finding:
    return Finding(
        kind,
        entry.service,
        says,
        entry.key,
        str(entry.id),
        entry.type,
        _at(entry),
        plain(entry.now),
        handler,
        expected=expected,
        got=got,
        step=_digest(taken) if taken else "",
    )


def _digest(taken: Taken[Any]) -> str:
    """Of all its decisions, in their order."""
    told = [_told(event) for event in taken.run().events]
    return blake2b(orjson.dumps(told), digest_size=16).hexdigest()
