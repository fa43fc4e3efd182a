"""A moment in a service's life: a time, an event or command, a place in a topic.

A journal is in order per key, and so is a moment. A time is all that had been decided by then, of each key
by itself. An event, a command or a place is right after the service had applied it; of other keys it takes in
whatever lies before it in the journal.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.sources.records import JournalEntry, Source
from choreo.replay.sources.rows import plain

_AGO = re.compile(r"-(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PLACE = re.compile(r"([\w.-]+)\[(\d+)\]@(\d+)")


class NoMoment(ValueError):
    """The message is a sentence."""


class Moment(ABC):
    """Is asked about every input in the order of the journal, and told of each that was taken."""

    @property
    def over(self) -> bool:
        """Tells that nothing that comes is part of it."""
        return False

    @property
    def reached(self) -> bool:
        return True

    @abstractmethod
    def includes(self, entry: JournalEntry) -> bool: ...

    def passed(self, entry: JournalEntry, events: Sequence[Event[Fact]]) -> None:  # noqa: B027 - most do not care
        """Notes that this input was taken, and what was decided in its step."""


@dataclass
class End(Moment):
    """All there is."""

    name: str = "the end"

    def includes(self, entry: JournalEntry) -> bool:
        return True

    def __str__(self) -> str:
        return self.name


@dataclass
class AtTime(Moment):
    time: datetime
    _over: set[str] = field(default_factory=set)

    def includes(self, entry: JournalEntry) -> bool:
        if entry.now > self.time:
            self._over.add(entry.key)  # a clock may go back, a key may not
        return entry.key not in self._over

    def __str__(self) -> str:
        return str(plain(self.time))


@dataclass
class _Once(Moment):
    """Something that happens once."""

    _reached: bool = field(default=False, init=False)

    @property
    def over(self) -> bool:
        return self._reached

    @property
    def reached(self) -> bool:
        return self._reached

    def includes(self, entry: JournalEntry) -> bool:
        return not self._reached


@dataclass
class AfterId(_Once):
    """Right after the step of an input, or of the event that was decided in it."""

    id: UUID

    def passed(self, entry: JournalEntry, events: Sequence[Event[Fact]]) -> None:
        own = any(event.id == self.id for event in events)
        self._reached = entry.id == self.id or own

    def __str__(self) -> str:
        return str(self.id)


@dataclass
class AfterPlace(_Once):
    topic: str
    partition: int
    offset: int

    def passed(self, entry: JournalEntry, events: Sequence[Event[Fact]]) -> None:
        place = entry.topic, entry.partition, entry.offset
        self._reached = place == (self.topic, self.partition, self.offset)

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


@dataclass
class Noted(Moment):
    """Another moment, which notes the inputs that it takes in."""

    of: Moment
    inputs: list[JournalEntry] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.of.over

    @property
    def reached(self) -> bool:
        return self.of.reached

    def includes(self, entry: JournalEntry) -> bool:
        return self.of.includes(entry)

    def passed(self, entry: JournalEntry, events: Sequence[Event[Fact]]) -> None:
        self.inputs.append(entry)
        self.of.passed(entry, events)

    def __str__(self) -> str:
        return str(self.of)


def moment_of(text: str, now: datetime, prefix: str = "") -> Moment:
    """Reads a moment. `prefix` is that of all topics, and may be left out. Raises `NoMoment`."""
    if found := _AGO.fullmatch(text):
        return AtTime(now - timedelta(seconds=int(found[1]) * _SECONDS[found[2]]))
    if place := place_of(text, prefix):
        return place
    try:
        return AfterId(UUID(text))
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise NoMoment(
            f"{text} is no moment: give a time (2030-01-31T09:00:00Z, or -5m), the id of an event or "
            "command, or a place (order-events[0]@17)."
        )
    return AtTime(time)


def place_of(text: str, prefix: str = "") -> AfterPlace | None:
    """Reads a place in a topic; None where the text is none."""
    found = _PLACE.fullmatch(text)
    if found is None:
        return None
    topic = found[1] if found[1].startswith(prefix) else prefix + found[1]
    return AfterPlace(topic, int(found[2]), int(found[3]))


async def settled(moment: Moment, source: Source, service: str) -> Moment:
    """Turns a place in the service's own topic into the event there: the journal knows that by its id.

    Raises `NoMoment` where nothing lies there.
    """
    if not isinstance(moment, AfterPlace) or source.cut.service_of.get(moment.topic) != service:
        return moment
    async for batch in source.batches():
        for item in batch:
            if isinstance(item, TopicRecord) and item.at == str(moment):
                try:
                    return AfterId(decode(item.record).id)
                except (UnknownType, Undecodable) as error:
                    raise NoMoment(f"What lies at {moment} is no event: {error}.") from None
    raise NoMoment(f"Nothing lies at {moment}.")
