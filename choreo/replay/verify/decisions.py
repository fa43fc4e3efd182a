"""What today's code decides, held against the service's own topic and outbox, by key and sequence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from choreo.chassis.installed import named
from choreo.chassis.transaction.step import Outcome
from choreo.message.codec import TopicRecord, Undecodable, UnknownType, UnknownVersion, decode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.deciding_lines import decided_through, path_of
from choreo.replay.engine.in_memory_service import Taken
from choreo.replay.engine.recorded import is_same
from choreo.replay.engine.row_digests import Otherwise
from choreo.replay.engine.sandbox import Effect, take
from choreo.replay.engine.walk import Ahead
from choreo.replay.sources.on_disk import OnDisk
from choreo.replay.sources.records import JournalEntry, OutboxRecord
from choreo.replay.sources.rows import plain
from choreo.replay.verify.findings import Finding, Kind, ServiceTally


@dataclass(frozen=True, slots=True)
class Published:
    """An event on a service's own topic, or in its outbox."""

    event: Event[Fact]
    at: str
    settled: bool
    """It was published before the journal was read."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A fact that today's code decides, and the input because of which it does."""

    event: Event[Fact]
    input: Ahead


class DecisionComparison:
    """Pairs a service's decisions with its published events, whichever of two comes first."""

    def __init__(self, tally: ServiceTally) -> None:
        self._tally = tally
        self._decided: dict[tuple[str, int], Decided] = {}
        """By key and sequence: what is not found on the topic yet."""
        self._published: dict[tuple[str, int], Published] = {}
        """By key and sequence: what is not decided yet."""
        self._matched: OnDisk[bool] = OnDisk(lambda _: b"", lambda _: True)
        """Hashes of what was found on the topic: whatever comes again is a repeat."""
        self._highest: dict[str, int] = {}
        """By key: the highest sequence on the topic."""
        self._latest: dict[str, Ahead] = {}
        """By key: the latest input that was taken."""
        self._contradicting: dict[str, JournalEntry] = {}
        """By key: the entry whose step says that other facts were decided before it than are today."""

    def add_published(self, published: Published, value: bytes | None) -> None:
        """Compares it if it is decided already. `value` is that of its record."""
        event = published.event
        if not self._tally.includes(event.key):
            return
        self._tally.counts["records"] += 1
        mark, at = hash((event.id, event.sequence, value)), (event.key, event.sequence)
        if event.sequence <= self._highest.get(event.key, 0):
            if mark in self._matched:
                self._tally.counts["repeated records"] += 1
                return
            if at in self._published or event.sequence < self._highest.get(event.key, 0):
                self._misplaced(published)
                return
        self._highest[event.key] = event.sequence
        self._matched[mark] = True
        decided = self._decided.pop(at, None)
        if decided is None:
            self._published[at] = published
        else:
            self._compare(decided, published)

    def add_unpublished(self, item: OutboxRecord) -> None:
        """Compares it if it is decided already: what the outbox holds may be on the topic, too."""
        try:
            event = decode(item.record)
        except (UnknownType, Undecodable) as error:
            says = f"its outbox holds what nobody decided: {error}"
            self._tally.findings.append(Finding("closure", self._tally.service, says))
            return
        if self._tally.includes(event.key) and (event.key, event.sequence) in self._decided:
            decided = self._decided.pop((event.key, event.sequence))
            self._compare(decided, Published(event, "the outbox", settled=False))

    def add_undecodable(self, record: TopicRecord, error: UnknownType | Undecodable) -> None:
        if isinstance(error, UnknownVersion):
            key = (record.record.key or b"").decode(errors="replace")
            says = f"{record.at} cannot be read by today's code: {error}"
            self._tally.diverges(Finding("incomplete", self._tally.service, says, key, at=record.at))
            return
        says = f"{record.at} was decided by nobody: {error}"
        self._tally.findings.append(Finding("closure", self._tally.service, says, at=record.at))

    def add_input(self, input: Ahead) -> None:
        """Notes that this is its key's latest from now on."""
        self._latest[input.entry.key] = input

    def add_contradiction(self, entry: JournalEntry) -> None:
        """Notes an entry whose step is not the one that today's decisions lead to; `finish` finds out why."""
        self._contradicting[entry.key] = entry
        self._tally.excluded_keys.add(entry.key)

    def add_decided(self, input: Ahead, events: Sequence[Event[Fact]]) -> None:
        """Compares those that are published already, up to the first that differs."""
        for event in events:
            decided = Decided(event, input)
            published = self._published.pop((input.entry.key, event.sequence), None)
            if published is None:
                self._decided[input.entry.key, event.sequence] = decided
            elif not self._compare(decided, published):
                return

    def finish(self, sequences: Mapping[str, int], gaps: bool) -> None:
        """Settles what could not be told before everything was read.

        `sequences` are the steps that today's code comes to, by key. `gaps`: the topic has some.
        """
        for key, entry in self._contradicting.items():
            self._tally.findings.append(self._contradicted(entry, sequences.get(key, 0)))
        for (key, sequence), published in sorted(self._published.items(), key=lambda found: found[0][1]):
            if key not in self._tally.excluded_keys and (
                published.settled or sequence <= sequences.get(key, 0)
            ):
                self._tally.diverges(self._undecided(published))
        for (key, _), decided in sorted(self._decided.items(), key=lambda found: found[0][1]):
            if key not in self._tally.excluded_keys:
                self._tally.diverges(_unpublished(decided, gaps))

    # -- what differs ----------------------------------------------------------------------------

    def _compare(self, decided: Decided, published: Published) -> bool:
        """Tells whether they are the same, or their key is excluded; if not, that is a finding."""
        if decided.event.key in self._tally.excluded_keys or is_same(decided.event, published.event):
            return True
        self._tally.diverges(_different(decided, published))
        return False

    def _misplaced(self, published: Published) -> None:
        event, service = published.event, self._tally.service
        says = (
            f"{published.at} is no decision of {service} at this place: {event.type} {event.id} has the "
            f"number {event.sequence} of its key, and the topic already has {self._highest[event.key]}"
        )
        self._tally.diverges(_of_published("closure", service, says, published))

    def _contradicted(self, entry: JournalEntry, number: int) -> Finding:
        """Says whether the latest input before the entry gave other facts, or an entry between is missing."""
        key, recorded, latest = entry.key, entry.step_before, self._latest.get(entry.key)
        if latest is not None:
            for sequence in range(latest.taken.sequence + 1, max(number, recorded) + 1):
                published, decided = self._published.get((key, sequence)), self._decided.get((key, sequence))
                if published and published.event.time == latest.entry.now:
                    return _one_less(latest, published)
                if decided and number > recorded:
                    return _one_more(latest, decided)
        service = self._tally.service
        says = f"the journal of {service} lacks what made steps {number + 1} to {recorded} of key {key}"
        return of_entry("incomplete", entry, says)

    def _undecided(self, published: Published) -> Finding:
        event, service = published.event, self._tally.service
        latest = self._latest.get(event.key)
        if latest and event.sequence > latest.taken.sequence and event.time == latest.entry.now:
            return _one_less(latest, published)
        told = f"{event.type} {event.id} at {published.at}"
        if self._tally.counts["inputs"] > 0:
            return _of_published("closure", service, f"{told} was decided by nobody", published)
        says = f"the journal of {service} is missing: {told} has no cause"
        return _of_published("incomplete", service, says, published)


# -- findings ----------------------------------------------------------------------------------------


def _different(decided: Decided, published: Published) -> Finding:
    entry, was, is_ = decided.input.entry, published.event, decided.event
    says = f"{entry.type} {entry.id} leads to another {was.type} than the one at {published.at}"
    if is_.type != was.type:
        says = f"{entry.type} {entry.id} leads to {is_.type}, and not to the {was.type} at {published.at}"
    return _of_input("step", decided.input, says, is_.data, event_as_dict(was), event_as_dict(is_))


def _unpublished(decided: Decided, gaps: bool) -> Finding:
    entry, event = decided.input.entry, decided.event
    says = f"{entry.type} {entry.id} leads to {event.type} {event.id}, which is on no topic and in no outbox"
    kind: Kind = "incomplete" if gaps else "closure"
    return _of_input(kind, decided.input, says, event.data, got=event_as_dict(event))


def _one_more(input: Ahead, decided: Decided) -> Finding:
    says = f"{input.entry.type} {input.entry.id} leads to a {decided.event.type} more"
    return _of_input("step", input, says, decided.event.data, got=event_as_dict(decided.event))


def _one_less(input: Ahead, published: Published) -> Finding:
    says = (
        f"{input.entry.type} {input.entry.id} does not lead to the {published.event.type} at {published.at}"
    )
    return _of_input("step", input, says, None, expected=event_as_dict(published.event))


def _of_published(kind: Kind, service: str, says: str, published: Published) -> Finding:
    event = published.event
    return Finding(
        kind,
        service,
        says,
        event.key,
        str(event.id),
        event.type,
        published.at,
        plain(event.time),
        expected=event_as_dict(event),
    )


def _of_input(
    kind: Kind, input: Ahead, says: str, fact: Fact | None, expected: Any = None, got: Any = None
) -> Finding:
    """Adds the line that gave this fact, or without a fact, that of the last answer."""
    lines = decided_through(input.taken, fact)
    finding = of_entry(kind, input.entry, says, lines, expected, got, _digest(input.taken))
    return replace(finding, path=path_of(input.taken))


def of_effect(entry: JournalEntry, effect: Effect) -> Finding:
    if effect.outside:
        return of_no_handler(effect, entry.service)
    return of_entry("effect", entry, effect.says, effect.lines, got=effect.text.strip() or None)


def of_no_handler(effect: Effect, otherwise: str) -> Finding:
    """No input led to it. It is of the service whose code it is, if it is one's."""
    packages = {entry.module.partition(".")[0]: name for name, entry in named().items()}
    whose = next((packages[one] for one in map(_package, effect.lines) if one in packages), otherwise)
    last = effect.lines[-1] if effect.lines else ""
    printed = effect.text.strip() or None
    return Finding("effect", whose, effect.says, handler=last, lines=effect.lines, got=printed)


def _package(line: str) -> str:
    return Path(line).parts[0]


def of_row(entry: JournalEntry, row: Otherwise) -> Finding:
    """Names the fact whose effect is another one, which is the input or follows from it."""
    return Finding(
        "state",
        entry.service,
        row.says,
        entry.key,
        str(row.event.id),
        row.event.type,
        entry.at if row.event.id == entry.id else "",
        plain(entry.now),
        row.lines[-1],
        row.table,
        row.column,
        row.recorded,
        row.today,
        row.lines,
    )


def effect_beside_steps(service: str, effect: Effect) -> Finding:
    handler = effect.lines[-1] if effect.lines else ""
    return Finding("effect", service, effect.says, handler=handler, lines=effect.lines)


def of_entry(
    kind: Kind,
    entry: JournalEntry,
    says: str,
    lines: Sequence[str] = (),
    expected: Any = None,
    got: Any = None,
    step: str = "",
) -> Finding:
    return Finding(
        kind,
        entry.service,
        says,
        entry.key,
        str(entry.id),
        entry.type,
        entry.at,
        plain(entry.now),
        lines[-1] if lines else "",
        expected=expected,
        got=got,
        lines=tuple(lines),
        step=step,
    )


def event_as_dict(event: Event[Fact]) -> dict[str, Any]:
    return {
        "type": event.type,
        "id": str(event.id),
        "key": event.key,
        "time": plain(event.time),
        "cause": event.causation_id and str(event.causation_id),
        "flow": str(event.correlation_id),
        "data": event.data.model_dump(mode="json"),
    }


def _digest(taken: Taken[Any]) -> str:
    """Hashes all that today's code decides for this input, in order."""
    outcome = take(taken).result
    events = [event_as_dict(event) for event in outcome.events] if isinstance(outcome, Outcome) else []
    return blake2b(orjson.dumps(events), digest_size=16).hexdigest()
