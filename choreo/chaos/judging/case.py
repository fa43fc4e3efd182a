"""A history, looked at from the sides the promises need."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from choreo.chaos.history import History, Record, Row
from choreo.chaos.judging.fold import OUTCOMES
from choreo.chaos.judging.log import SOURCE_OF, Event, Log, read_log

_ALL_HEAR = frozenset({"SigningKeyPublished", "SessionsEnded"})

CONSUMED: Mapping[str, frozenset[str]] = {
    "user": frozenset(),
    "order": _ALL_HEAR | {"PaymentConfirmed", "PaymentRejected", "PaymentRefunded"},
    "billing": _ALL_HEAR | {"UserRegistered", "OrderCreated", "OrderCancelled"},
    "notification": _ALL_HEAR | {"UserRegistered", "PaymentConfirmed", "PaymentRejected", "PaymentRefunded"},
}
"""Which facts each service applies, besides its own."""

TOPICS_OF = {service: {f"{SOURCE_OF[type]}-events" for type in types} for service, types in CONSUMED.items()}
"""Which topics each service reads."""


class Case:
    def __init__(self, history: History) -> None:
        self.history = history
        set_aside = {service: self._set_aside(service) for service in CONSUMED}
        self._places = {service: set(map(_place_of, found)) for service, found in set_aside.items()}
        everything = [row for found in set_aside.values() for row in found]
        no_events = {_place_of(row) for row in everything if not row["type"]}
        self.excepted = {row["key"] for row in everything}
        self.log: Log = read_log(history.records, lambda record: _place(record) in no_events)

    def rows(self, service: str, table: str) -> Sequence[Row]:
        return self.history.tables.get(service, {}).get(table, ())

    def is_set_aside(self, record: Record) -> bool:
        """By all who read its topic, and somebody does."""
        readers = [service for service, topics in TOPICS_OF.items() if record.topic in topics]
        return bool(readers) and all(_place(record) in self._places[service] for service in readers)

    def _set_aside(self, service: str) -> list[Row]:
        """For a person, who may have dropped it since."""
        dropped = [row for row in self.rows(service, "journal") if row["outcome"] == "dropped"]
        return [*self.rows(service, "parked"), *dropped]

    @cached_property
    def by_id(self) -> dict[str, Event]:
        return {event.id: event for event in self.log.events}

    @cached_property
    def outcomes(self) -> dict[str, list[Event]]:
        """By order."""
        found = defaultdict(list)
        for event in self.log.of(*OUTCOMES):
            found[event.data["order_id"]].append(event)
        return found

    @cached_property
    def applied(self) -> dict[tuple[str, str], list[Row]]:
        """By service and event id: the rows of the journal that say so."""
        found = defaultdict(list)
        for service in CONSUMED:
            for row in self.rows(service, "journal"):
                if row["kind"] == "fact" and row["outcome"] == "applied":
                    found[service, row["id"]].append(row)
        return found

    @cached_property
    def steps(self) -> dict[tuple[str, str], list[int]]:
        """By service and key: the steps of all facts applied there, its own and those it heard."""
        found = defaultdict(list)
        for event in self.log.events:
            found[event.source, event.key].append(event.sequence)
        for (service, _), rows in self.applied.items():
            for row in rows:
                found[service, row["key"]].append(row["step"])
        return found


def names(events: Iterable[Event]) -> str:
    """For sentences."""
    return ", ".join(event.name for event in events) or "none"


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _place_of(row: Row) -> tuple[str, int, int]:
    return row["topic"], row["partition"], row["offset"]
