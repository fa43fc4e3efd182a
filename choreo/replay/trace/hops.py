"""The way of an event: who decided it because of what, what each service did with it, how long each hop took.

Told from what was written down while it happened: the times of the journals, of Postgres' commits and of
Kafka's log. Where one of them is not kept the hop is unknown; where two clocks disagree it is 0, never less.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from choreo.replay.trace.journals import Journal, JournalRow
from choreo.replay.trace.published_events import PublishedEvent, occurrences

HOPS = {
    "queue": "a request in the service, until a transaction takes it",
    "transaction": "from the decision to its commit",
    "outbox": "from the commit until the event lies in Kafka",
    "broker": "from there until another service has it",
    "call": "from the decision until another service has it, where that is called",
    "consumer": "an event in the service, until a transaction takes it",
    "waited": "for what else was needed, such as the mail server's answer",
}
"""What each of them measures."""

WHOLE = ("outbox", "broker")
"""Kafka's log counts whole milliseconds, and so do these."""


@dataclass(frozen=True, slots=True)
class Hop:
    name: str
    ms: float | None
    """Milliseconds; None if it is not known."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How an event came into Kafka."""

    service: str
    input: str | None
    """The type of the event or command in whose transaction it was decided; None if it is not known."""
    hops: tuple[Hop, ...]
    """Those of the input too, unless they are told at the event it follows from."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """What a service did with an event, as it lies at this offset."""

    service: str
    offset: int
    outcome: str
    """As in the journal, or: waiting, duplicate, unread (not read yet), skipped (it does not hear it)."""
    hops: tuple[Hop, ...] = ()
    leads_to: tuple[str, ...] = ()
    """The types of the events decided in the same transaction."""


@dataclass(frozen=True, slots=True)
class Way:
    event: PublishedEvent
    origin: Origin | None
    """None where the journal of its service was not read."""
    hearings: tuple[Hearing, ...]


def ways(events: Sequence[PublishedEvent], journals: Mapping[str, Journal]) -> dict[UUID, Way]:
    """Returns the way of each event. An event that lies at several offsets is heard at each of them."""
    found = occurrences(events)
    deciding = {id: decided_by(event, journals) for id, (event, *_) in found.items()}

    def decided_in(service: str, entry: JournalRow | None) -> tuple[str, ...]:
        return tuple(
            event.type
            for id, (event, *_) in found.items()
            if entry and event.source == service and deciding[id] == entry
        )

    def hearings(event: PublishedEvent) -> Iterator[Hearing]:
        for service, journal in journals.items():
            if service != event.source:
                entry = _entry(journal, event.id)
                yield _hearing(service, event, journal, entry, decided_in(service, entry))

    return {
        id: Way(
            first,
            _origin(first, journals[first.source], deciding[id]) if first.source in journals else None,
            tuple(hearing for event in found[id] for hearing in hearings(event)),
        )
        for id, (first, *_) in found.items()
    }


def decided_by(event: PublishedEvent, journals: Mapping[str, Journal]) -> JournalRow | None:
    """Returns the input in whose transaction it was decided; mostly, but not always, its cause.

    Of the key's inputs of that moment it is the last whose step came before the event's.
    """
    if event.source not in journals:
        return None
    candidates = [
        entry
        for entry in journals[event.source].entries
        if (entry.key, entry.decided_at, entry.outcome) == (event.key, event.at, "applied")
        and entry.step < event.sequence
    ]
    return max(enumerate(candidates), key=lambda found: (found[1].step, found[0]))[1] if candidates else None


def _origin(event: PublishedEvent, journal: Journal, entry: JournalRow | None) -> Origin:
    outbox = _hop("outbox", entry.committed_at if entry else None, event.appended_at)
    if entry is None:
        return Origin(event.source, None, (_hop("transaction", None, None), outbox))
    if entry.id == event.cause:
        return Origin(event.source, entry.type, (outbox,))
    before = [
        _hop("queue" if entry.kind == "command" else "consumer", entry.received_at, entry.decided_at),
        _hop("transaction", entry.decided_at, entry.committed_at),
    ]
    cause = _entry(journal, event.cause) if event.cause else None
    if cause:
        before.insert(0, _hop("waited", cause.committed_at, entry.received_at))
    return Origin(event.source, entry.type, (*before, outbox))


def _hearing(
    service: str, event: PublishedEvent, journal: Journal, entry: JournalRow | None, leads_to: tuple[str, ...]
) -> Hearing:
    if entry is not None and entry.topic != event.topic:
        came = _hop("call", event.at, entry.received_at)
    else:
        match journal.has_read(event):
            case None:
                return Hearing(service, event.offset, "skipped")
            case False:
                return Hearing(service, event.offset, "unread")
        if entry is None:
            return Hearing(service, event.offset, "skipped")
        if (entry.partition, entry.offset) != (event.partition, event.offset):
            return Hearing(service, event.offset, "duplicate")
        came = _hop("broker", event.appended_at, entry.received_at)
    hops = [came, _hop("consumer", entry.received_at, entry.decided_at)]
    if entry.outcome != "dropped":  # then the commit is that of giving it up, long after
        hops.append(_hop("transaction", entry.decided_at, entry.committed_at))
    outcome = "waiting" if event.id in journal.waiting else entry.outcome
    return Hearing(service, event.offset, outcome, tuple(hops), leads_to)


def _entry(journal: Journal, id: UUID) -> JournalRow | None:
    return next((entry for entry in journal.entries if entry.id == id), None)


def _hop(name: str, since: datetime | None, until: datetime | None) -> Hop:
    if since is None or until is None:
        return Hop(name, None)
    ms = max(0.0, (until - since) / timedelta(milliseconds=1))
    return Hop(name, round(ms) if name in WHOLE else ms)
