"""Flows as spans, for programs that show traces: see docs/traces.md.

Made of the times that `choreo.replay.trace.hops` is made of, so that bars and hops agree. Ids are derived:
whoever makes the span of a thing, and however often, gives it the same one. An event's is the parent-id that
`traceparent` has in its record, so that what others do because of the event is below it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from uuid import UUID

from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.message.envelope import derived_id, event_id
from choreo.replay.trace.hops import decided_by
from choreo.replay.trace.journals import JournalRow
from choreo.replay.trace.published_events import PublishedEvent, occurrences
from choreo.replay.trace.trace import Material

Attributes = Mapping[str, str | int]

_MOST_OF_A_TYPE = 16
"""So many facts of one type, at most, are thought to follow from one cause."""
_UNHANDLED = ("parked", "queued", "dropped")


class Kind(Enum):
    """What a span is of."""

    REQUEST = "from when a request came to a service until what it decided is committed"
    TRANSACTION = "from when a transaction took an input until its commit"
    PUBLISH = "from the commit until Kafka has the event, or without Kafka the first service that is called"
    PROCESS = "from when a service has an event until what it made of it is committed"
    MAIL = "from when there was something to be mailed until the mail server has answered"
    TIMER = "from when a time was up until what was decided then is committed"


@dataclass(frozen=True, slots=True)
class Trace:
    """What the spans of a flow have in common."""

    id: str
    """32 hex digits."""
    caller: str | None
    """The parent-id and flags that came with its request; None: it begins here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    service: str
    kind: Kind
    name: str
    trace: Trace
    id: str
    """16 hex digits."""
    parent: str | None
    begin: datetime
    end: datetime
    link: str | None = None
    """The span of the message that is processed: of the same trace."""
    attributes: Attributes = field(default_factory=dict)
    error: str | None = None


def id_of_event(event: UUID) -> str:
    """Returns the id of the span in which an event was published."""
    return event.hex[:16]


def spans_of(material: Material, groups: Mapping[str, str], mailing: Collection[str]) -> list[Span]:
    """Returns the spans of its flows that are over.

    `groups` are the services' consumer groups, `mailing` those services that send mail.
    """
    return [
        span for flow in sorted(material.flows) for span in _Flow(flow, material, groups, mailing).spans()
    ]


class _Flow:
    def __init__(
        self, flow: UUID, material: Material, groups: Mapping[str, str], mailing: Collection[str]
    ) -> None:
        self._flow, self._material, self._groups, self._mailing = flow, material, groups, mailing
        self._entries = {
            (service, entry.id): entry
            for service, journal in material.journals.items()
            for entry in journal.entries
            if entry.flow == flow
        }
        found = occurrences(event for event in material.events if event.flow == flow)
        self._events = {id: first for id, (first, *_) in found.items()}
        self._trace = self._trace_of()

    def _trace_of(self) -> Trace:
        """Every command of a flow knows its trace, and the first one who called."""
        causes = {id: entry.cause for (_, id), entry in self._entries.items() if entry.cause}
        told = next((cause["trace_id"] for cause in causes.values()), self._flow.hex)
        return Trace(told, causes.get(self._flow, {}).get("caller"))

    def spans(self) -> Iterator[Span]:
        for (service, _), entry in self._entries.items():
            yield self._taken(service, entry)
            yield self._transaction(service, entry)
        for event in self._events.values():
            yield self._published(event)
        if not self._material.events_are_kept:
            yield from self._told()

    # -- inputs --------------------------------------------------------------------------------------

    def _taken(self, service: str, entry: JournalRow) -> Span:
        """Returns the span in which an input came."""
        match _kind(entry, service in self._mailing):
            case Kind.PROCESS:
                return self._processed(service, entry)
            case Kind.REQUEST:
                return self._requested(service, entry)
            case kind:
                return self._worked(service, entry, kind)

    def _requested(self, service: str, entry: JournalRow) -> Span:
        return Span(
            service=service,
            kind=Kind.REQUEST,
            name=entry.type,
            trace=self._trace,
            id=_id(Kind.REQUEST, service, entry),
            parent=self._trace.caller[:16] if self._trace.caller else None,
            begin=entry.came_at,
            end=_end(entry),
            attributes={} if entry.status is None else {"http.response.status_code": entry.status},
        )

    def _processed(self, service: str, entry: JournalRow) -> Span:
        attributes: Attributes = _of_event(entry.type, entry.id)
        event = self._events.get(entry.id)
        from_kafka = self._material.events_are_kept and (event is None or event.topic == entry.topic)
        if from_kafka:
            attributes = {
                **attributes,
                **self._of_message("process", entry, entry.id),
                "messaging.consumer.group.name": self._groups[service],
            }
        return Span(
            service=service,
            kind=Kind.PROCESS,
            name=f"process {entry.topic if from_kafka else entry.type}",
            trace=self._trace,
            id=_id(Kind.PROCESS, service, entry),
            parent=id_of_event(entry.id),
            link=id_of_event(entry.id),
            begin=entry.came_at,
            end=_end(entry),
            attributes=attributes,
            error=_error(entry),
        )

    def _worked(self, service: str, entry: JournalRow, kind: Kind) -> Span:
        """Returns what a worker did because of an event, when nobody asked for it."""
        cause = UUID((entry.cause or {})["id"])
        heard = self._entries.get((service, cause))
        came = entry.came_at
        mails = kind is Kind.MAIL
        return Span(
            service=service,
            kind=kind,
            name="send mail" if mails else entry.type,
            trace=self._trace,
            id=_id(kind, service, entry),
            parent=_id(Kind.PROCESS, service, heard) if heard else id_of_event(cause),
            begin=min(came, _end(heard)) if mails and heard else came,
            end=came if mails else _end(entry),
        )

    def _transaction(self, service: str, entry: JournalRow) -> Span:
        attributes = {"choreo.input": entry.type, "choreo.outcome": entry.outcome}
        if entry.refusal:
            attributes["choreo.refusal"] = str(entry.refusal.get("type"))
        return Span(
            service=service,
            kind=Kind.TRANSACTION,
            name=f"transaction {entry.type}",
            trace=self._trace,
            id=_id(Kind.TRANSACTION, service, entry),
            parent=_id(_kind(entry, service in self._mailing), service, entry),
            begin=entry.decided_at,
            end=_end(entry),
            attributes=attributes,
            error=_error(entry),
        )

    # -- what was decided ----------------------------------------------------------------------------

    def _published(self, event: PublishedEvent) -> Span:
        decided = decided_by(event, self._material.journals)
        begin = _end(decided) if decided else event.at
        return Span(
            service=event.source,
            kind=Kind.PUBLISH,
            name=f"send {event.topic}",
            trace=self._trace,
            id=id_of_event(event.id),
            parent=self._decision(event.source, event.cause, decided),
            begin=begin,
            end=max(begin, event.appended_at or begin),
            attributes={**_of_event(event.type, event.id), **self._of_message("send", event, event.id)},
        )

    def _told(self) -> Iterator[Span]:
        """Yields what was brought by calls: all there is of an event is in the journals of the called."""
        first: dict[UUID, JournalRow] = {}
        for entry in self._entries.values():
            if entry.kind == "fact" and entry.type in SOURCE_OF_TYPE:
                known = first.setdefault(entry.id, entry)
                if entry.came_at < known.came_at:
                    first[entry.id] = entry
        for id, heard in first.items():
            source, came = SOURCE_OF_TYPE[heard.type], heard.came_at
            cause = self._cause_of(source, id, heard.type)
            yield Span(
                service=source,
                kind=Kind.PUBLISH,
                name=f"tell {heard.type}",
                trace=self._trace,
                id=id_of_event(id),
                parent=self._decision(source, None, cause),
                begin=min(came, _end(cause)) if cause else came,
                end=came,
                attributes=_of_event(heard.type, id),
            )

    def _cause_of(self, source: str, event: UUID, type: str) -> JournalRow | None:
        """Returns the input because of which it was decided: an event's id is derived from its cause's."""
        for (service, id), entry in self._entries.items():
            cause = UUID(entry.cause["id"]) if entry.cause else id
            if service == source and any(
                event_id(source, cause, type, number) == event for number in range(_MOST_OF_A_TYPE)
            ):
                return entry
        return None

    def _decision(self, source: str, cause: UUID | None, decided: JournalRow | None) -> str | None:
        """Returns the span below which its publication is: the transaction in which it was decided, or where
        that is of another flow, such as that of the account for which an order waited, its cause's.
        """
        if decided and decided.flow == self._flow:
            return _id(Kind.TRANSACTION, source, decided)
        heard = self._entries.get((source, cause or self._flow))
        if heard:
            return _id(Kind.TRANSACTION, source, heard)
        return id_of_event(cause) if cause else None

    def _of_message(self, operation: str, place: JournalRow | PublishedEvent, id: UUID) -> Attributes:
        """Returns what OpenTelemetry's conventions for Kafka say of a message."""
        return {
            "messaging.system": "kafka",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": place.topic or "",
            "messaging.destination.partition.id": str(place.partition),
            "messaging.kafka.offset": place.offset or 0,
            "messaging.kafka.message.key": place.key,
            "messaging.message.id": str(id),
            "messaging.message.conversation_id": str(self._flow),
        }


def _of_event(type: str, id: UUID) -> Attributes:
    return {"cloudevents.event_id": str(id), "cloudevents.event_type": type}


def _kind(entry: JournalRow, mails: bool) -> Kind:
    if entry.kind == "fact":
        return Kind.PROCESS
    if entry.cause and entry.cause["is_event"]:
        return Kind.MAIL if mails else Kind.TIMER
    return Kind.REQUEST


def _id(kind: Kind, service: str, entry: JournalRow) -> str:
    """What is parked is written anew when it is tried again: each time is another span."""
    attempt = (entry.outcome == "dropped", entry.decided_at) if entry.outcome in _UNHANDLED else ()
    return derived_id("span", kind.name, service, entry.id, *attempt).hex[:16]


def _end(entry: JournalRow) -> datetime:
    """Returns the commit, or where that is not kept, or is of a later change, the decision."""
    if entry.committed_at is None or entry.outcome == "dropped":
        return entry.decided_at
    return max(entry.decided_at, entry.committed_at)


def _error(entry: JournalRow) -> str | None:
    return entry.error or entry.outcome if entry.outcome in _UNHANDLED else None
