"""One service's decisions, held against its topic by key and sequence.

What it holds is what `choreo.replay.verify.verify` hands it.

After its first divergence a key is set aside, for what follows only follows from it; all others go on.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from zlib import crc32

import orjson

from choreo.chassis.service import Service
from choreo.chassis.transaction.step import Outcome
from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.in_memory_service import Shadow, Taken
from choreo.replay.engine.source_lines import decided_at, raised_at
from choreo.replay.sources.records import Cut, JournalEntry, Unpublished
from choreo.replay.sources.rows import plain
from choreo.replay.verify.findings import Finding, Kind

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


class Verifier:
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
        self.sample = 1.0 if service.name == _ALWAYS else sample
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
        return any(SOURCE_OF_TYPE[fact.__name__] == other for fact in self.hears)

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

    def _keep(self, entry: JournalEntry, taken: Taken[Any], step: Outcome[Any]) -> None:
        key = entry.key
        self.counts["steps"] += 1
        self.counts["decisions"] += len(step.events)
        self._last[key] = Last(entry, taken)
        if entry.refusal is not None or step.refusal is not None:
            refusal = refusal_of(step)
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
        return self.sample >= 1 or crc32(key.encode()) < self.sample * 2**32

    def _diverges(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.aside.add(finding.key)


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


def refusal_of(step: Outcome[Any]) -> dict[str, Any] | None:
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
