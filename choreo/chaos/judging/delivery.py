"""I7: everything is handled. I8: one key's facts are applied once, and in the order they were decided."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from choreo.chaos.history import Place
from choreo.chaos.judging.case import CONSUMED, TOPICS_OF, Case
from choreo.chaos.judging.log import SOURCE_OF, Event, Log, place_of

_UNFINISHED = (
    ("billing", "payments", "order_id", "outcome", "waiting"),
    ("order", "orders", "id", "status", "created"),
    ("notification", "notifications", "id", "status", "pending"),
)


def is_complete(case: Case) -> Iterator[str]:
    yield from _records_reach_the_ends(case)
    for service in CONSUMED:
        yield from _has_read_everything(case, service)
        if unpublished := len(case.rows(service, "outbox")):
            yield f"{service} has {unpublished} facts in its outbox"
    for service, table, id, column, state in _UNFINISHED:
        for row in case.rows(service, table):
            if row[column] == state and row["user_id"] not in case.excepted:
                yield f"{service}.{table} {row[id]} of {row['user_id']} is still {state}"
    for record, why in case.log.malformed:
        if not case.is_set_aside(record):
            yield f"{place_of(record)} is no event, since {why}, and is not parked"


def _records_reach_the_ends(case: Case) -> Iterator[str]:
    """Else there is something the judge was not shown, or something that is gone."""
    shown: dict[Place, int] = dict(case.history.read)
    for record in case.history.records:
        place = record.topic, record.partition
        shown[place] = max(record.offset + 1, shown.get(place, 0))
    for place in sorted(case.history.ends.keys() | shown.keys()):
        end, last = case.history.ends.get(place, 0), shown.get(place, 0)
        if end != last:
            yield f"{place[0]}[{place[1]}] ends at {end}, and was read to {last}"


def _has_read_everything(case: Case, service: str) -> Iterator[str]:
    rows = case.rows(service, "positions")
    positions = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
    for place, end in case.history.ends.items():
        if place[0] in TOPICS_OF[service] and positions.get(place, 0) != end:
            read = positions.get(place, 0)
            yield f"{service} has read {place[0]}[{place[1]}] to {read}, and it ends at {end}"


def is_in_order(case: Case) -> Iterator[str]:
    yield from _keys_stay_in_their_partition(case.log)
    yield from _sequences_rise(case.log.events)
    yield from _repeats_are_identical(case.log)
    yield from _heard_events_are_applied_once(case)
    yield from _steps_rise(case)
    yield from _steps_are_taken_once(case)


def _keys_stay_in_their_partition(log: Log) -> Iterator[str]:
    partitions: dict[tuple[str, str], set[int]] = defaultdict(set)
    for event, record in [*((event, event.record) for event in log.events), *log.repeats]:
        partitions[record.topic, event.key].add(record.partition)
    for (topic, key), where in partitions.items():
        if len(where) > 1:
            yield f"{key} is in partitions {', '.join(map(str, sorted(where)))} of {topic}"


def _sequences_rise(events: Iterable[Event]) -> Iterator[str]:
    """`events`: first occurrences, per partition in the order of offsets."""
    last: dict[tuple[str, int, str], Event] = {}
    for event in events:
        lane = event.source, event.record.partition, event.key
        before = last.get(lane)
        if before is not None and event.sequence <= before.sequence:
            yield (
                f"{event.name} of {event.key} has sequence {event.sequence} "
                f"and comes after {before.name} with {before.sequence}"
            )
        last[lane] = event


def _repeats_are_identical(log: Log) -> Iterator[str]:
    for event, again in log.repeats:
        first = event.record
        if (first.key, first.value, first.headers) != (again.key, again.value, again.headers):
            yield f"{event.name} at {place_of(first)} is there with other bytes at {place_of(again)}"


def _heard_events_are_applied_once(case: Case) -> Iterator[str]:
    for service, consumed in CONSUMED.items():
        for event in case.log.events:
            count, right = len(case.applied.get((service, event.id), ())), int(event.type in consumed)
            if count > right or (count < right and event.key not in case.excepted):
                yield f"{service} has applied {event.name} of {event.key} {count} times instead of {right}"
    for service, id in case.applied:
        if id not in case.by_id:
            yield f"{service} has applied event {id}, which is in no topic"


def _steps_rise(case: Case) -> Iterator[str]:
    """Where one key and source decided one fact after another, a service applied them so."""
    decided = case.log.of(*SOURCE_OF)
    for service in CONSUMED:
        last: dict[tuple[str, str], tuple[int, Event]] = {}
        for event in decided:
            rows = case.applied.get((service, event.id))
            if not rows:
                continue
            step, (before, earlier) = rows[0]["step"], last.get((event.source, event.key), (0, event))
            if step <= before:
                yield (
                    f"{service} applied {event.name} of {event.key} as step {step}, "
                    f"and {earlier.name}, which was decided before, as step {before}"
                )
            last[event.source, event.key] = step, event


def _steps_are_taken_once(case: Case) -> Iterator[str]:
    """By its own facts and those it heard."""
    for (service, key), steps in case.steps.items():
        if len(set(steps)) < len(steps):
            twice = sorted(step for step, count in Counter(steps).items() if count > 1)
            yield f"{service} gave step {', '.join(map(str, twice))} of {key} to more than one fact"
