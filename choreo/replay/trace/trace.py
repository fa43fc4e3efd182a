"""What followed from what, as trees: and in them, where it should have been, what has not followed yet.

A service that hears an event either decides something because of it or does not; its description says when it
must. What is not there is held against the service's journal, which knows why: see decision 25.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from choreo.chassis.registry import follows
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.trace.hops import Hearing, Way, ways
from choreo.replay.trace.journals import Journal, JournalRow
from choreo.replay.trace.published_events import PublishedEvent, in_causal_order


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpublishedEvent:
    """A fact that is decided, and not in Kafka yet."""

    type: str
    source: str
    key: str
    sequence: int
    flow: UUID
    cause: UUID | None
    data: Mapping[str, Any]

    @staticmethod
    def of(event: Event[Fact]) -> "UnpublishedEvent":
        return UnpublishedEvent(
            type=event.type,
            source=event.source,
            key=event.key,
            sequence=event.sequence,
            flow=event.correlation_id,
            cause=event.causation_id,
            data=event.data.model_dump(mode="json"),
        )


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that is known of some flows."""

    flows: Collection[UUID]
    events: Sequence[PublishedEvent]
    """Theirs, at every place where they were found."""
    journals: Mapping[str, Journal]
    unpublished: Sequence[UnpublishedEvent] = ()
    lost: Collection[UUID] = ()
    """Inputs which decided what is neither in an outbox nor was found in Kafka."""
    now: datetime
    left_out: int = 0
    """So many more flows there are, all older."""
    events_are_kept: bool = True
    """Else there are journals alone."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What should be here, and is not; or what a service could not do."""

    service: str
    expects: tuple[str, ...]
    """The types of which one should follow; none where nothing needs to."""
    state: str
    """unread, waiting, unsent, parked, queued, dropped, unpublished, lost or undecided."""
    says: str
    since_ms: float | None = None
    """How long ago there was reason for it."""
    overdue_ms: float | None = None
    """How long ago it should have been there at the latest; None while there is time."""


@dataclass(frozen=True)
class Node:
    way: Way
    after_ms: float
    """From the beginning of its tree to its decision."""
    children: tuple["Node", ...] = ()
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A flow: what was asked, and all that followed from it."""

    flow: UUID
    key: str
    began_at: datetime
    """When its request came to the service, or where that is not known, its first decision."""
    asked: JournalRow | None
    """The request in its service's journal."""
    service: str | None
    """Whose request it was."""
    nodes: tuple[Node, ...] = ()
    gaps: tuple[Gap, ...] = field(default=())
    journaled: tuple[tuple[str, JournalRow], ...] = ()
    """By service what it was told and asked besides, in order; only where no events are kept."""

    def everything(self) -> Iterator[tuple[int, Node]]:
        """Yields each node with its depth, before what follows from it."""

        def below(nodes: tuple[Node, ...], depth: int) -> Iterator[tuple[int, Node]]:
            for node in nodes:
                yield depth, node
                yield from below(node.children, depth + 1)

        return below(self.nodes, 0)


def trees(material: Material, consumed_types: Mapping[str, Collection[str]]) -> list[Tree]:
    """Returns the trees, the oldest flow first. `consumed_types` are the types each service hears."""
    told = ways(material.events, material.journals)
    found = [_Flow(flow, material, told, consumed_types).tree() for flow in set(material.flows)]
    return sorted((tree for tree in found if tree), key=lambda tree: tree.began_at)


def undecided(events: Sequence[PublishedEvent]) -> dict[str, set[UUID]]:
    """Returns by service those of these that must wait for something, as nothing was decided about them."""
    found = {}
    for (service, heard), follow in follows().items():
        if follow.waits_for and follow.about and not follow.later:
            settled = {event.data[follow.about] for event in events if event.type in follow.types}
            mine = [event for event in events if event.type == heard]
            found[service] = {event.id for event in mine if event.data[follow.about] not in settled}
    return found


def without_published(
    facts: Sequence[UnpublishedEvent], events: Sequence[PublishedEvent]
) -> list[UnpublishedEvent]:
    """Leaves out what is published: for a moment a fact is in both the outbox and Kafka."""
    published = {(event.source, event.key, event.sequence) for event in events}
    return [fact for fact in facts if (fact.source, fact.key, fact.sequence) not in published]


class _Flow:
    def __init__(
        self,
        flow: UUID,
        material: Material,
        told: Mapping[UUID, Way],
        consumed_types: Mapping[str, Collection[str]],
    ) -> None:
        self._flow, self._material, self._told, self._consumed_types = flow, material, told, consumed_types
        self._events = [
            event for _, event in in_causal_order(event for event in material.events if event.flow == flow)
        ]
        self._ids = {event.id for event in self._events}
        self._follows = follows()

    def tree(self) -> Tree | None:
        """Returns None where nothing is known of it."""
        entries = [
            (service, entry)
            for service, journal in self._material.journals.items()
            for entry in journal.entries
            if entry.flow == self._flow
        ]
        service, asked = next(
            ((service, entry) for service, entry in entries if entry.id == self._flow), (None, None)
        )
        moments = [event.at for event in self._events] + [entry.decided_at for _, entry in entries]
        if not moments:
            return None
        self._began = (asked.received_at if asked else None) or min(moments)
        key = next(iter([event.key for event in self._events] + [entry.key for _, entry in entries]))
        top = [event for event in self._events if event.cause not in self._ids]
        lost = {entry.id for _, entry in entries} & set(self._material.lost) - self._ids
        gaps = self._unpublished(None) + tuple(_lost(of) for of, entry in entries if entry.id in lost)
        nodes = tuple(self._node(event) for event in top)
        rest = [entry for entry in entries if entry[1].id != self._flow]
        journaled = () if self._material.events_are_kept else sorted(rest, key=lambda one: one[1].decided_at)
        return Tree(self._flow, key, self._began, asked, service, nodes, gaps, tuple(journaled))

    def _node(self, event: PublishedEvent) -> Node:
        way = self._told[event.id]
        hearings = tuple(
            hearing for hearing in way.hearings if event.type in self._consumed_types.get(hearing.service, ())
        )
        children = tuple(self._node(child) for child in self._events if child.cause == event.id)
        gaps = [self._gap(event, hearing) for hearing in hearings if hearing.outcome != "duplicate"]
        after_ms = max(0.0, (event.at - self._began) / timedelta(milliseconds=1))
        return Node(
            Way(event, way.origin, hearings),
            after_ms,
            children,
            self._unpublished(event.id) + tuple(gap for gap in gaps if gap),
        )

    def _unpublished(self, cause: UUID | None) -> tuple[Gap, ...]:
        return tuple(
            Gap(fact.source, (fact.type,), "unpublished", "decided, and not in Kafka yet")
            for fact in self._material.unpublished
            if fact.flow == self._flow and (fact.cause if fact.cause in self._ids else None) == cause
        )

    def _gap(self, event: PublishedEvent, hearing: Hearing) -> Gap | None:
        expects = self._expected(event, hearing.service)
        entry = next(
            (one for one in self._material.journals[hearing.service].entries if one.id == event.id), None
        )
        where = f" ({entry.source_line})" if entry and entry.source_line else ""
        match hearing.outcome:
            case "skipped":
                says = "read past, and nothing is in its journal"
                return self._since(event, hearing.service, expects, "lost", says)
            case "parked":
                says = f"{entry.error}{where}" if entry and entry.error else "needs a person"
                return self._since(event, hearing.service, expects, "parked", says)
            case "queued":
                says = f"{entry.error if entry else ''}{where}"
                return self._since(event, hearing.service, expects, "queued", says)
            case "dropped":
                says = "given up by a person"
                return self._since(event, hearing.service, expects, "dropped", says)
        if event.id in self._material.lost:
            return _lost(hearing.service)
        if not expects:
            return None
        match hearing.outcome:
            case "unread":
                return self._since(event, hearing.service, expects, "unread", "not heard yet")
            case "waiting":
                says = self._follows[hearing.service, event.type].waits
                return self._since(event, hearing.service, expects, "waiting", says)
        later = self._follows[hearing.service, event.type].later
        state, says = ("unsent", later) if later else ("undecided", "nothing was decided")
        return self._since(event, hearing.service, expects, state, says)

    def _since(
        self, event: PublishedEvent, service: str, expects: tuple[str, ...], state: str, says: str
    ) -> Gap:
        now = self._material.now
        overdue = None
        follow = self._follows.get((service, event.type))
        if expects and follow and (due := event.data.get(follow.due)):
            late = (now - datetime.fromisoformat(due)) / timedelta(milliseconds=1)
            overdue = late if late > 0 else None
        since = max(0.0, (now - event.at) / timedelta(milliseconds=1))
        return Gap(service, expects, state, says, since, overdue)

    def _expected(self, event: PublishedEvent, service: str) -> tuple[str, ...]:
        """Returns what the service still has to decide because of this; nothing where it has."""
        follow = self._follows.get((service, event.type))
        if follow is None or not follow.must(event.data):
            return ()
        about = event.data.get(follow.about)
        facts: list[PublishedEvent | UnpublishedEvent] = [*self._material.events, *self._material.unpublished]
        decided = {
            fact.type
            for fact in facts
            if fact.source == service
            and (fact.cause == event.id or (about is not None and fact.data.get(follow.about) == about))
        }
        if decided.intersection(follow.types):
            return ()
        ruled_out = {out.__name__ for by, out in follow.rules_out.items() if by.__name__ in decided}
        return tuple(type for type in follow.types if type not in ruled_out)


def _lost(service: str) -> Gap:
    return Gap(
        service, (), "lost", "decided something that was not found, neither in Kafka nor in its outbox"
    )
